#!lua flags=allow-oom
-- Frees an open hold, if the caller may. One that is settled or released already stays as it is.
--
-- A full memory does not stop it: it replaces a field by one that is at most a few bytes longer.
--
-- KEYS: holds, hold_ends
-- ARGV[1]: hold id
-- ARGV[2]: "" to release it whoever its holder is, "only" to release it for one of these holders:
-- ARGV[3] and further ones
-- Reply: the hold as it is now; nil if there is none, or it has expired. It is open still if its
-- holder is another.

local REMEMBERED_MAX = 10000 -- beyond this many, the one that would be forgotten first is forgotten

check_type(KEYS[1], 'hash')
check_type(KEYS[2], 'zset')
local now = now_ms()
local stored = redis.call('HMGET', KEYS[1], '', ARGV[1])
local state, credits, counts_until, holder, content = parse_hold(stored[2])
if not state or counts_until <= now then
  return false
end
if state ~= 'open' then
  return stored[2]
end
local may_release = ARGV[2] == '' or holder == ''
for i = 3, #ARGV do
  may_release = may_release or ARGV[i] == holder
end
if not may_release then
  return stored[2]
end
local sum = math.max(0, (tonumber(stored[1] or 0) or 0) - credits)
local until_ms = math.min(counts_until, now + REMEMBERED_MS)
local hold = hold_text('released', credits, until_ms, holder, content)

-- From here on only writes, none of which can fail.

redis.call('HSET', KEYS[1], ARGV[1], hold, '', whole(sum))
redis.call('ZADD', KEYS[2], whole(until_ms - ENDED_BELOW_ZERO), ARGV[1])
if redis.call('ZCOUNT', KEYS[2], '-inf', '(0') > REMEMBERED_MAX then
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)
  redis.call('HDEL', KEYS[1], oldest[1])
  redis.call('ZREM', KEYS[2], oldest[1])
end
return hold
