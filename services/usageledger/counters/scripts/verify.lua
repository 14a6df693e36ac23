#!lua flags=allow-oom
-- Notes that the head was seen where its owner expects it, by the server's clock.
--
-- A full memory does not stop it: it replaces a field by one of the same size.
--
-- KEYS: head
-- ARGV[1]: the expected token
-- Reply: {1} done; {0, token} the head is elsewhere, and nothing was changed

local token = redis.call('HGET', KEYS[1], 'token')
if token ~= ARGV[1] then
  return {0, token}
end
redis.call('HSET', KEYS[1], 'verified_at_ms', whole(now_ms()))
return {1}
