#!lua flags=no-writes
-- Reads the head, one account and what it holds at one moment. Who asks says "as of" if the head was not verified lately, so a
-- replica may answer.
--
-- key                   type  holds
-- head                  hash  token "next_offset:hash" | value | verified_at_ms | windows
-- accounts              hash  account -> state
-- holds:<account>       hash  hold id -> "state credits counts_until content" | "" -> the sum of the open ones: see hold.lua
-- hold_ends:<account>   zset  hold id -> counts_until; of one that is over, less 2^52
--
-- KEYS: head, accounts, holds, hold_ends
-- ARGV: account
-- Reply: token, value, verified_at_ms, state; nil where there is none; then the sum of its open holds, and how many there are

local reply = redis.call('HMGET', KEYS[1], 'token', 'value', 'verified_at_ms')
reply[4] = redis.call('HGET', KEYS[2], ARGV[1])
reply[5], reply[6] = 0, 0
local sum = redis.call('HGET', KEYS[3], '')
if sum then
  local time = redis.call('TIME')
  local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  reply[5], reply[6] = tonumber(sum) or 0, redis.call('ZCOUNT', KEYS[4], '(' .. now, '+inf')
  -- Those that have run out are swept away by who holds next, and until then they are among the sum.
  local ended = redis.call('ZRANGEBYSCORE', KEYS[4], 0, now)
  if #ended > 0 then
    for _, hold in ipairs(redis.call('HMGET', KEYS[3], unpack(ended))) do
      reply[5] = math.max(0, reply[5] - (tonumber(string.match(hold or '', '^open (%d+) ')) or 0))
    end
  end
end
return reply
