#!lua flags=no-writes
-- Reads one hold.
--
-- KEYS: holds
-- ARGV[1]: hold id
-- Reply: the hold; nil if there is none, or it has expired

local hold = redis.call('HGET', KEYS[1], ARGV[1])
local _, _, counts_until = parse_hold(hold)
return (counts_until or 0) > now_ms() and hold
