#!lua
-- Reserves credits for one use, if the account is as the caller saw it and has enough left beside
-- its other open holds.
--
-- A hold counts until its time by the server's clock, and is free by itself from then on. It is
-- swept away when the next hold is placed, and both keys expire with the last hold.
--
-- How many holds of a holder, and of the partition, are open is bounded too. These two are counted
-- in sorted sets of what was placed. A commit and a release leave the sets as they are. So in a set
-- that is full, a random part is looked through first for holds that have ended.
--
-- KEYS: accounts, holds, hold_ends, placed_by:<holder>, placed
-- ARGV[1]: account
-- ARGV[2]: its state as the caller saw it, "" for none
-- ARGV[3]: the credits that remain by this state
-- ARGV[4]: hold id
-- ARGV[5]: the credits to reserve
-- ARGV[6]: for how long (ms)
-- ARGV[7]: how many holds of the account may be open
-- ARGV[8]: the holder, "" for none
-- ARGV[9]: content
-- ARGV[10], ARGV[11]: how many holds of the holder, and of the partition, may be open
-- Reply:
-- * {1, sum, hold}: it is there, reserved now or before, or settled already.
-- * {0, sum, state}: the account is another by now.
-- * {2, sum}: the rest does not cover it.
-- * {3, sum, hold}: the id holds something else.
-- * {4, sum}: too many of the account, of the holder or of the partition are open.
--
-- The sum is of the open holds, this one among them. Only {1} can have changed any hold.

local ENDED_PER_CALL = 100 -- how many ended holds are forgotten; each call adds one at most
local LOOKED_AT = 200 -- how many of a full set are looked at

local account, seen, remaining = ARGV[1], ARGV[2], tonumber(ARGV[3])
local id, credits, life_ms = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local open_max, holder, content = tonumber(ARGV[7]), ARGV[8], ARGV[9]

check_type(KEYS[2], 'hash')
for k = 3, 5 do
  check_type(KEYS[k], 'zset')
end
local now = now_ms()
local holds_of = string.sub(KEYS[2], 1, #KEYS[2] - #account) -- and the account follows

-- Whether a set of placed holds has room for another one. Forgets those that have ended.
local function has_room(placed, max)
  redis.call('ZREMRANGEBYSCORE', placed, '-inf', whole(now))
  if redis.call('ZCARD', placed) < max then
    return true
  end
  local ended = {}
  for _, member in ipairs(redis.call('ZRANDMEMBER', placed, LOOKED_AT)) do
    local length, rest = string.match(member, '^(%d+):(.*)$')
    local of, its_id = string.sub(rest, 1, tonumber(length)), string.sub(rest, tonumber(length) + 1)
    if parse_hold(redis.call('HGET', holds_of .. of, its_id)) ~= 'open' then
      ended[#ended + 1] = member
    end
  end
  if #ended > 0 then
    redis.call('ZREM', placed, unpack(ended))
  end
  return #ended > 0
end

local stored = redis.call('HMGET', KEYS[2], '', id)
local expired = expired_holds(KEYS[3], now)
local sum = open_sum(stored[1], KEYS[2], expired)

local state, _, counts_until, _, stored_content = parse_hold(stored[2])
if state and state ~= 'released' and counts_until > now then
  return {stored_content == content and 1 or 3, sum, stored[2]}
end
local current = redis.call('HGET', KEYS[1], account) or ''
if current ~= seen then
  return {0, sum, current}
end
if credits > 0 and credits > remaining - sum then
  return {2, sum}
end
if redis.call('ZCOUNT', KEYS[3], '(' .. whole(now), '+inf') >= open_max
  or not has_room(KEYS[4], tonumber(ARGV[10])) or not has_room(KEYS[5], tonumber(ARGV[11])) then
  return {4, sum}
end

-- From here on only writes, none of which can fail.

local forgotten = redis.call('ZRANGEBYSCORE', KEYS[3],
  '-inf', whole(now - ENDED_BELOW_ZERO), 'LIMIT', 0, ENDED_PER_CALL)
for _, swept in ipairs({expired, forgotten}) do
  if #swept > 0 then
    redis.call('HDEL', KEYS[2], unpack(swept))
    redis.call('ZREM', KEYS[3], unpack(swept))
  end
end
local ends = now + life_ms
local hold = hold_text('open', credits, ends, holder, content)
redis.call('HSET', KEYS[2], id, hold, '', whole(sum + credits))
redis.call('ZADD', KEYS[3], whole(ends), id)
for k = 4, 5 do
  redis.call('ZADD', KEYS[k], whole(ends), #account .. ':' .. account .. id)
end
for k = 2, 5 do
  if redis.call('PEXPIRETIME', KEYS[k]) < ends then
    redis.call('PEXPIREAT', KEYS[k], whole(ends))
  end
end
return {1, sum + credits, hold}
