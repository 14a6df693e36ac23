#!lua flags=allow-oom
-- Reads the whole view at one moment: head, accounts, due list, and the number of identities.
--
-- It writes nothing, but is not flagged no-writes: so a replica, which may be behind, refuses it.
--
-- KEYS: head, accounts, due, then the identities of each window
-- ARGV[1]: the head's field `windows` as the caller knows it
-- Reply: {1, the head's fields, accounts and states, accounts and times, identities by window};
--        {2} there are other windows by now

local head = redis.call('HMGET', KEYS[1], 'token', 'value', 'verified_at_ms', 'windows')
if (head[4] or '') ~= ARGV[1] then
  return {2}
end
local counts = {}
for k = 4, #KEYS do
  counts[#counts + 1] = redis.call('HLEN', KEYS[k])
end
local due = redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')
return {1, head, redis.call('HGETALL', KEYS[2]), due, counts}
