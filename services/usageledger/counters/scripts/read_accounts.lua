#!lua flags=no-writes
-- Reads the head and several accounts of its partition, with what they hold, at one moment: as read_account.lua does for one.
--
-- key                   type  holds
-- head                  hash  token "next_offset:hash" | value | verified_at_ms | windows
-- accounts              hash  account -> state
-- holds:<account>       hash  hold id -> "state credits counts_until content" | "" -> the sum of the open ones: see hold.lua
-- hold_ends:<account>   zset  hold id -> counts_until; of one that is over, less 2^52
--
-- KEYS: head, accounts, and of each account its holds, hold_ends
-- ARGV: the accounts
-- Reply: token, value, verified_at_ms, then three lists in the order asked: the states, nil where there is none; the sums of the open holds;
--        how many of them there are

local head = redis.call('HMGET', KEYS[1], 'token', 'value', 'verified_at_ms')
local states = redis.call('HMGET', KEYS[2], unpack(ARGV))
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local sums, counts = {}, {}
for k = 1, #ARGV do
  local holds, ends = KEYS[2 * k + 1], KEYS[2 * k + 2]
  local sum = redis.call('HGET', holds, '')
  sums[k], counts[k] = 0, 0
  if sum then
    sums[k], counts[k] = tonumber(sum) or 0, redis.call('ZCOUNT', ends, '(' .. now, '+inf')
    local ended = redis.call('ZRANGEBYSCORE', ends, 0, now)
    if #ended > 0 then
      for _, hold in ipairs(redis.call('HMGET', holds, unpack(ended))) do
        sums[k] = math.max(0, sums[k] - (tonumber(string.match(hold or '', '^open (%d+) ')) or 0))
      end
    end
  end
end
return {head[1], head[2], head[3], states, sums, counts}
