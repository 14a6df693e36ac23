#!lua flags=allow-oom
-- Frees an open hold. One that is settled or released already stays what it is.
--
-- key                   type  holds
-- holds:<account>       hash  hold id -> "state credits counts_until content" | "" -> the sum of the open ones: see hold.lua
-- hold_ends:<account>   zset  hold id -> counts_until; of one that is over, less 2^52
--
-- A full memory does not stop it: it overwrites a field by one that is a few bytes longer at most.
--
-- KEYS: holds, hold_ends
-- ARGV: hold id
-- Reply: what the hold is now; nil where there is none, or it has run out

local KEPT_MS = 15 * 60 * 1000 -- for how long it is known of a hold that it was released, where it would have counted for longer
local KEPT_MAX = 10000 -- of how many at most: beyond that the one that ends first is forgotten
local OVER = 2 ^ 52

local function check_type(key, expected)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= expected then
    error({err = 'WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. expected})
  end
end

check_type(KEYS[1], 'hash')
check_type(KEYS[2], 'zset')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('HMGET', KEYS[1], '', ARGV[1])
local state, credits, counts_until, content = string.match(stored[2] or '', '^(%a+) (%d+) (%d+) (.*)$')
if not state or tonumber(counts_until) <= now then
  return false
end
if state ~= 'open' then
  return stored[2]
end
local sum = math.max(0, (tonumber(stored[1] or 0) or 0) - tonumber(credits))
local kept_until = math.min(tonumber(counts_until), now + KEPT_MS)
local hold = string.format('released %s %.0f %s', credits, kept_until, content)

-- From here on only writes, none of which can fail.

redis.call('HSET', KEYS[1], ARGV[1], hold, '', string.format('%.0f', sum))
redis.call('ZADD', KEYS[2], string.format('%.0f', kept_until - OVER), ARGV[1])
if redis.call('ZCOUNT', KEYS[2], '-inf', '(0') > KEPT_MAX then
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)
  redis.call('HDEL', KEYS[1], oldest[1])
  redis.call('ZREM', KEYS[2], oldest[1])
end
return hold
