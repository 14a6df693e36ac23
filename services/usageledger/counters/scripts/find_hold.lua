#!lua flags=no-writes
-- Reads one hold.
--
-- key                   type  holds
-- holds:<account>       hash  hold id -> "state credits counts_until content" | "" -> the sum of the open ones: see hold.lua
--
-- KEYS: holds
-- ARGV: hold id
-- Reply: the hold; nil where there is none, or it has run out

local hold = redis.call('HGET', KEYS[1], ARGV[1])
local time = redis.call('TIME')
local counts_until = tonumber(string.match(hold or '', '^%a+ %d+ (%d+) ') or 0)
return counts_until > time[1] * 1000 + math.floor(time[2] / 1000) and hold
