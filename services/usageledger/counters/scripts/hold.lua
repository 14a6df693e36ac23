#!lua
-- Reserves credits for one use, if the account is as the caller saw it and what is left covers them beside its other open holds.
--
-- key                   type  holds
-- accounts              hash  account -> state
-- holds:<account>       hash  hold id -> "state credits counts_until content", the state open, settled or released; "" -> the sum of the open
-- hold_ends:<account>   zset  hold id -> counts_until; of one that is settled or released, less 2^52
--
-- A hold counts until its time (ms since 1970) by the server's clock, and is free by itself from then on: it is swept away by the next hold,
-- and both keys expire with the last one. That one was settled or released is remembered for a while, so that a late repeat can be told.
-- One zset for both: those that are over lie below 0, so either kind is found by when it ends without the other.
--
-- KEYS: accounts, holds, hold_ends
-- ARGV: account, its state as the caller saw it ("" for none), the credits that this state leaves, hold id, credits to reserve,
--       for how long (ms), how many may be open, content
-- Reply: {1, sum, hold} it is there, reserved now or before, or is settled already; {0, sum, state} the account is another by now;
--        {2, sum} what is left does not cover it; {3, sum, hold} the id holds something else; {4, sum} too many are open.
--        The sum is of the open holds, this one among them if it is. Only after {1} can anything have changed.

local OVER = 2 ^ 52
local OVER_PER_CALL = 100 -- of those that are over; each call adds one at most

local account, seen, remaining = ARGV[1], ARGV[2], tonumber(ARGV[3])
local id, credits, life_ms, open_max, content = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]

local function check_type(key, expected)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= expected then
    error({err = 'WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. expected})
  end
end

local function parse(hold)
  local state, credits, counts_until, content = string.match(hold or '', '^(%a+) (%d+) (%d+) (.*)$')
  return state, tonumber(credits), tonumber(counts_until), content
end

local function whole(number)
  return string.format('%.0f', number)
end

check_type(KEYS[2], 'hash')
check_type(KEYS[3], 'zset')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local stored = redis.call('HMGET', KEYS[2], '', id)
local ended = redis.call('ZRANGEBYSCORE', KEYS[3], 0, now)
local sum = tonumber(stored[1] or 0) or 0
if #ended > 0 then
  for _, hold in ipairs(redis.call('HMGET', KEYS[2], unpack(ended))) do
    local _, freed = parse(hold)
    sum = math.max(0, sum - (freed or 0))
  end
end

local state, _, counts_until, said = parse(stored[2])
if state and state ~= 'released' and counts_until > now then
  return {said == content and 1 or 3, sum, stored[2]}
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

local over = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', whole(now - OVER), 'LIMIT', 0, OVER_PER_CALL)
for _, swept in ipairs({ended, over}) do
  if #swept > 0 then
    redis.call('HDEL', KEYS[2], unpack(swept))
    redis.call('ZREM', KEYS[3], unpack(swept))
  end
end
local ends = now + life_ms
local hold = string.format('open %s %s %s', whole(credits), whole(ends), content)
redis.call('HSET', KEYS[2], id, hold, '', whole(sum + credits))
redis.call('ZADD', KEYS[3], whole(ends), id)
for k = 2, 3 do
  if redis.call('PEXPIRETIME', KEYS[k]) < ends then
    redis.call('PEXPIREAT', KEYS[k], whole(ends))
  end
end
return {1, sum + credits, hold}
