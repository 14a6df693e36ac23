#!lua flags=allow-oom
-- Reads the whole view at one moment: head, accounts, due list, and how many identities there are.
--
-- key                   type  holds
-- head                  hash  token "next_offset:hash" | value | verified_at_ms | windows "566 567", those that hold identities
-- accounts              hash  account -> state
-- due                   zset  account -> when it is due (ms since 1970)
-- identities:<window>   hash  identity -> what is remembered of it
--
-- Not flagged no-writes although it writes nothing: so a replica, which may be behind, refuses to run it.
--
-- KEYS: head, accounts, due, the keys of the identity windows
-- ARGV: the head's field `windows` as the caller knows it
-- Reply: {1, head's fields, accounts and states, accounts and times, number of identities by window};
--        {2} there are other windows by now

local head = redis.call('HMGET', KEYS[1], 'token', 'value', 'verified_at_ms', 'windows')
if (head[4] or '') ~= ARGV[1] then
  return {2}
end
local counts = {}
for k = 4, #KEYS do
  counts[#counts + 1] = redis.call('HLEN', KEYS[k])
end
return {1, head, redis.call('HGETALL', KEYS[2]), redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES'), counts}
