#!lua flags=allow-oom
-- Replaces this view by the one that was built beside it, whole and at once: readers see the old
-- one, then the new one. Holds are not replaced: they belong to no ledger.
--
-- KEYS: head, accounts, due, then the same three of the view beside (beside:head ...),
--       then the identities of each window of this view,
--       then those of each window of the view beside, each followed by its new name
-- ARGV[1]: the expected token of the view beside
-- ARGV[2]: this view's field `windows` as the caller knows it
-- ARGV[3]: the same field of the view beside
-- ARGV[4]: how many of the keys are identities of this view
-- Reply: {1} done; {0, token} the head beside is elsewhere; {2} there are other windows by now.
--        Only after {1} was anything changed.

local FIXED_KEYS = 6

local token = redis.call('HGET', KEYS[4], 'token')
if token ~= ARGV[1] then
  return {0, token}
end
for k, head in ipairs({KEYS[1], KEYS[4]}) do
  local is_hash = redis.call('TYPE', head).ok == 'hash'
  if is_hash and (redis.call('HGET', head, 'windows') or '') ~= ARGV[1 + k] then
    return {2}
  end
end

-- From here on only writes, none of which can fail.

local first_beside = FIXED_KEYS + 1 + tonumber(ARGV[4])
for k = 1, 3 do
  redis.call('UNLINK', KEYS[k])
end
for k = FIXED_KEYS + 1, first_beside - 1 do
  redis.call('UNLINK', KEYS[k])
end
for k = 1, 3 do
  if redis.call('EXISTS', KEYS[k + 3]) == 1 then
    redis.call('RENAME', KEYS[k + 3], KEYS[k])
  end
end
for k = first_beside, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[k]) == 1 then
    redis.call('RENAME', KEYS[k], KEYS[k + 1])
  end
end
return {1}
