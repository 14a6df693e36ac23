#!lua flags=allow-oom
-- Reads the head.
--
-- It writes nothing, but is not flagged no-writes: so a replica, which may be behind, refuses it.
--
-- KEYS: head
-- ARGV: none
-- Reply: token, value, verified_at_ms, windows; nil for a field that does not exist

return redis.call('HMGET', KEYS[1], 'token', 'value', 'verified_at_ms', 'windows')
