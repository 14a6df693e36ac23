#!lua flags=no-writes
-- Reads the head, several accounts of its partition and their open holds at one moment, as
-- read_account.lua does for one.
--
-- KEYS: head, accounts, then of each account: holds, hold_ends
-- ARGV: the accounts
-- Reply: token, value, verified_at_ms, then three lists in the order of the accounts:
-- * the states, nil if there is none
-- * the sums of the open holds' credits
-- * how many are open

local head = redis.call('HMGET', KEYS[1], 'token', 'value', 'verified_at_ms')
local states = redis.call('HMGET', KEYS[2], unpack(ARGV))
local now = now_ms()
local sums, counts = {}, {}
for k = 1, #ARGV do
  local holds, ends = KEYS[2 * k + 1], KEYS[2 * k + 2]
  local sum = redis.call('HGET', holds, '')
  sums[k], counts[k] = 0, 0
  if sum then
    sums[k] = open_sum(sum, holds, expired_holds(ends, now))
    counts[k] = redis.call('ZCOUNT', ends, '(' .. whole(now), '+inf')
  end
end
return {head[1], head[2], head[3], states, sums, counts}
