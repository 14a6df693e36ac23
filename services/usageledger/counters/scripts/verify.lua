#!lua flags=allow-oom
-- Notes that the head was seen where its owner believes it to be, by the server's clock.
--
-- key    type  holds
-- head   hash  token "next_offset:hash" | value | verified_at_ms | windows
--
-- A full memory does not stop it: it overwrites a field by one of the same size.
--
-- KEYS: head
-- ARGV: the token expected
-- Reply: {1} done; {0, token} the head is elsewhere, nothing was changed

local token = redis.call('HGET', KEYS[1], 'token')
if token ~= ARGV[1] then
  return {0, token}
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'verified_at_ms', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
return {1}
