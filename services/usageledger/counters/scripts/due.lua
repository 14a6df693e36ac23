#!lua flags=allow-oom
-- Reads the due list, if the head is as expected.
--
-- key    type  holds
-- head   hash  token "next_offset:hash" | value | verified_at_ms | windows
-- due    zset  account -> when it is due (ms since 1970)
--
-- Not flagged no-writes although it writes nothing: so a replica, which may be behind, refuses to run it.
--
-- KEYS: head, due
-- ARGV: the token expected; "" where any will do
-- Reply: {1, {account, time, account, time ...}}; {0, token} the head is elsewhere

if ARGV[1] ~= '' then
  local token = redis.call('HGET', KEYS[1], 'token')
  if token ~= ARGV[1] then
    return {0, token}
  end
end
return {1, redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')}
