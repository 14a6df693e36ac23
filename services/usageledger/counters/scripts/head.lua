#!lua flags=allow-oom
-- Reads the head.
--
-- key    type  holds
-- head   hash  token "next_offset:hash" | value | verified_at_ms | windows "566 567", those that hold identities
--
-- Not flagged no-writes although it writes nothing: so a replica, which may be behind, refuses to run it.
--
-- KEYS: head
-- Reply: token, value, verified_at_ms, windows; nil where there is none

return redis.call('HMGET', KEYS[1], 'token', 'value', 'verified_at_ms', 'windows')
