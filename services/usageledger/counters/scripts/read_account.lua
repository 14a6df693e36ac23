#!lua flags=no-writes
-- Reads the head and one account at one moment. Who asks says "as of" if the head was not verified lately, so a replica may answer.
--
-- key        type  holds
-- head       hash  token "next_offset:hash" | value | verified_at_ms | windows
-- accounts   hash  account -> state
--
-- KEYS: head, accounts
-- ARGV: account
-- Reply: token, value, verified_at_ms, state; nil where there is none

local reply = redis.call('HMGET', KEYS[1], 'token', 'value', 'verified_at_ms')
reply[4] = redis.call('HGET', KEYS[2], ARGV[1])
return reply
