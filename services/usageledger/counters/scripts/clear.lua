#!lua flags=allow-oom
-- Deletes the view, all at once. Holds stay: they belong to no ledger.
--
-- KEYS: head, accounts, due, then the identities of each window
-- ARGV[1]: the head's field `windows` as the caller knows it
-- Reply: {1} done; {2} there are other windows by now, and nothing was changed

if (redis.call('HGET', KEYS[1], 'windows') or '') ~= ARGV[1] then
  return {2}
end
for k = 1, #KEYS do
  redis.call('UNLINK', KEYS[k])
end
return {1}
