#!lua flags=allow-oom
-- Reads the due list.
--
-- key    type  holds
-- due    zset  account -> when it is due (ms since 1970)
--
-- Not flagged no-writes although it writes nothing: so a replica, which may be behind, refuses to run it.
--
-- KEYS: due
-- Reply: account, time, account, time ...

return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
