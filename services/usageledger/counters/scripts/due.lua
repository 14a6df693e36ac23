#!lua flags=allow-oom
-- Reads the due list if the head is as expected.
--
-- It writes nothing, but is not flagged no-writes: so a replica, which may be behind, refuses it.
--
-- KEYS: head, due
-- ARGV[1]: the expected token, "" for any
-- Reply: {1, {account, time, account, time ...}}; {0, token} the head is elsewhere

if ARGV[1] ~= '' then
  local token = redis.call('HGET', KEYS[1], 'token')
  if token ~= ARGV[1] then
    return {0, token}
  end
end
return {1, redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')}
