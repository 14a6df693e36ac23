#!lua flags=no-writes
-- Reads the head, one account and its open holds at one moment.
--
-- The caller says "as of" if the head was not verified lately, so a replica may answer.
--
-- KEYS: head, accounts, holds, hold_ends
-- ARGV[1]: account
-- Reply: token, value, verified_at_ms, state (nil for what does not exist), then the sum of the
--        open holds' credits, how many are open, and the time (ms since 1970)

local reply = redis.call('HMGET', KEYS[1], 'token', 'value', 'verified_at_ms')
reply[4] = redis.call('HGET', KEYS[2], ARGV[1])
local now = now_ms()
reply[5], reply[6], reply[7] = 0, 0, now
local sum = redis.call('HGET', KEYS[3], '')
if sum then
  reply[5] = open_sum(sum, KEYS[3], expired_holds(KEYS[4], now))
  reply[6] = redis.call('ZCOUNT', KEYS[4], '(' .. whole(now), '+inf')
end
return reply
