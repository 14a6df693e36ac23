#!lua flags=allow-oom
-- Puts the view that was built beside this one in its place, whole and at once: readers see the old one, then the new one.
--
-- key                          type  holds
-- head                         hash  token "next_offset:hash" | value | verified_at_ms | windows "566 567", those that hold identities
-- accounts                     hash  account -> state
-- due                          zset  account -> when it is due (ms since 1970)
-- identities:<window>          hash  identity -> what is remembered of it
-- beside:head, beside:…        the same, of the view beside. Holds are not among them: they stay.
--
-- KEYS: head, accounts, due, the three beside; then the identity windows of this view; then those beside, each followed by its new name
-- ARGV: the token expected beside, the field `windows` of either head as the caller knows it (this view's, the one's beside),
--       how many of the keys are identity windows of this view
-- Reply: {1} done; {0, token} the head beside is elsewhere; {2} there are other windows by now. Only after {1} was anything changed.

local FIXED_KEYS = 6

local token = redis.call('HGET', KEYS[4], 'token')
if token ~= ARGV[1] then
  return {0, token}
end
for k, head in ipairs({KEYS[1], KEYS[4]}) do
  if redis.call('TYPE', head).ok == 'hash' and (redis.call('HGET', head, 'windows') or '') ~= ARGV[1 + k] then
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
