#!lua
-- Reserves credits for one use, if the account is as the caller saw it and has enough left beside
-- its other open holds.
--
-- A hold counts until its time by the server's clock, and is free by itself from then on. It is
-- swept away when the next hold is placed, and both keys expire with the last hold.
--
-- KEYS: accounts, holds, hold_ends
-- ARGV[1]: account
-- ARGV[2]: its state as the caller saw it, "" for none
-- ARGV[3]: the credits that remain by this state
-- ARGV[4]: hold id
-- ARGV[5]: the credits to reserve
-- ARGV[6]: for how long (ms)
-- ARGV[7]: how many holds of the account may be open
-- ARGV[8]: the holder, "" for none
-- ARGV[9]: content
-- Reply:
-- * {1, sum, hold}: it is there, reserved now or before, or settled already.
-- * {0, sum, state}: the account is another by now.
-- * {2, sum}: the rest does not cover it.
-- * {3, sum, hold}: the id holds something else.
-- * {4, sum}: too many are open.
--
-- The sum is of the open holds, this one among them. Only {1} can have changed anything.

local ENDED_PER_CALL = 100 -- how many ended holds are forgotten; each call adds one at most

local account, seen, remaining = ARGV[1], ARGV[2], tonumber(ARGV[3])
local id, credits, life_ms = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local open_max, holder, content = tonumber(ARGV[7]), ARGV[8], ARGV[9]

check_type(KEYS[2], 'hash')
check_type(KEYS[3], 'zset')
local now = now_ms()

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
if redis.call('ZCOUNT', KEYS[3], '(' .. whole(now), '+inf') >= open_max then
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
for k = 2, 3 do
  if redis.call('PEXPIRETIME', KEYS[k]) < ends then
    redis.call('PEXPIREAT', KEYS[k], whole(ends))
  end
end
return {1, sum + credits, hold}
