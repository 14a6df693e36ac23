#!lua flags=allow-oom
-- Throws the view away, all at once.
--
-- key                   type  holds
-- head                  hash  token "next_offset:hash" | value | verified_at_ms | windows "566 567", those that hold identities
-- accounts              hash  account -> state
-- due                   zset  account -> when it is due (ms since 1970)
-- identities:<window>   hash  identity -> what is remembered of it
--
-- Holds are not among them: they are of no ledger, and stay.
--
-- KEYS: head, accounts, due, the keys of the identity windows
-- ARGV: the head's field `windows` as the caller knows it
-- Reply: {1} done; {2} there are other windows by now, nothing was changed

if (redis.call('HGET', KEYS[1], 'windows') or '') ~= ARGV[1] then
  return {2}
end
for k = 1, #KEYS do
  redis.call('UNLINK', KEYS[k])
end
return {1}
