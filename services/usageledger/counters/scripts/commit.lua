#!lua
-- Writes one commit whole if the head is as expected; else changes nothing.
--
-- key                   type  holds
-- head                  hash  token "next_offset:hash" | value | verified_at_ms | windows "566 567", those that hold identities
-- accounts              hash  account -> state
-- due                   zset  account -> when it is due (ms since 1970)
-- holds                 hash  hold id -> hold
-- identities:<window>   hash  identity -> what is remembered of it
--
-- Scripts have no rollback: everything is checked before the first write, and after it nothing can fail.
-- (Without the flag allow-oom the server refuses a script that it has no memory for before it starts.)
--
-- KEYS: head, accounts, due, holds, the keys of windows that are written or dropped
-- ARGV: 1 the token expected ("" for an empty view), 2 the token to be, 3 the head's value to be,
--       4 drop windows older than this ("" for none),
--       the number of words of 5 accounts, 6 due, 7 no longer due, 8 settled holds,
--       9.. for each window in KEYS its number and the number of its words (0 where it is only to be dropped),
--       then the words: account, state ...; ms, account ...; account ...; hold ...; identity, value ... window by window
-- Reply: {1} done; {0, token} the head is elsewhere; {2, windows} these are to be dropped too: call again with their keys;
--        {3, key} the view has no head and yet this key. Only after {1} was anything changed.

local SLICE = 1000 -- words to one command: `unpack` puts them all on the C stack, which has room for 8,000. Even: pairs stay together.
local FIXED_KEYS, FIXED_WORDS = 4, 8
local EXACT = 2 ^ 53 -- numbers are doubles here: whole ones are exact below this

local function list_windows(text)
  local list = {}
  for window in string.gmatch(text or '', '%S+') do
    list[#list + 1] = window
  end
  return list
end

local function check_type(key, expected)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= expected then
    error({err = 'WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. expected})
  end
end

local stored = redis.call('HMGET', KEYS[1], 'token', 'windows')
if (stored[1] or '') ~= ARGV[1] then
  return {0, stored[1]}
end

check_type(KEYS[2], 'hash')
check_type(KEYS[3], 'zset')
check_type(KEYS[4], 'hash')
for k = FIXED_KEYS + 1, #KEYS do
  check_type(KEYS[k], 'hash')
end
if not stored[1] then
  for k = 2, #KEYS do
    if k ~= 4 and redis.call('EXISTS', KEYS[k]) == 1 then
      return {3, KEYS[k]}
    end
  end
end

-- Where each part's words lie.
local parts = {}
local next_word = FIXED_WORDS + 2 * (#KEYS - FIXED_KEYS) + 1
local function part(command, key, count)
  parts[#parts + 1] = {command = command, key = key, first = next_word, count = count}
  next_word = next_word + count
end
part('HSET', KEYS[2], tonumber(ARGV[5]))
part('ZADD', KEYS[3], tonumber(ARGV[6]))
part('ZREM', KEYS[3], tonumber(ARGV[7]))
part('HDEL', KEYS[4], tonumber(ARGV[8]))

local given, is_kept = {}, {}
local kept, dropped, unknown = {}, {}, {}
local drop_before = tonumber(ARGV[4])
for k = FIXED_KEYS + 1, #KEYS do
  local number = ARGV[FIXED_WORDS + 2 * (k - FIXED_KEYS) - 1]
  local count = tonumber(ARGV[FIXED_WORDS + 2 * (k - FIXED_KEYS)])
  part('HSET', KEYS[k], count)
  given[number] = KEYS[k]
  if count > 0 then
    kept[#kept + 1] = number
    is_kept[number] = true
  end
end
for _, number in ipairs(list_windows(stored[2])) do
  if not (drop_before and tonumber(number) < drop_before) then
    if not is_kept[number] then
      kept[#kept + 1] = number
    end
  elseif given[number] then
    dropped[#dropped + 1] = given[number]
  else
    unknown[#unknown + 1] = number
  end
end
if #unknown > 0 then
  return {2, unknown}
end

for _, p in ipairs(parts) do
  if (p.command == 'HSET' or p.command == 'ZADD') and p.count % 2 ~= 0 then
    error({err = 'ERR an odd number of words for ' .. p.key})
  end
end
if next_word ~= #ARGV + 1 then
  error({err = 'ERR the words do not add up: ' .. (next_word - 1) .. ' expected, ' .. #ARGV .. ' given'})
end
for i = parts[2].first, parts[2].first + parts[2].count - 1, 2 do
  local ms = tonumber(ARGV[i])
  if not ms or ms ~= math.floor(ms) or math.abs(ms) >= EXACT then
    error({err = 'ERR not a time in ms: ' .. ARGV[i]})
  end
end

-- From here on only writes, none of which can fail.

for _, p in ipairs(parts) do
  for from = p.first, p.first + p.count - 1, SLICE do
    redis.call(p.command, p.key, unpack(ARGV, from, math.min(from + SLICE, p.first + p.count) - 1))
  end
end
for _, key in ipairs(dropped) do
  redis.call('UNLINK', key)
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'token', ARGV[2], 'value', ARGV[3], 'windows', table.concat(kept, ' '),
  'verified_at_ms', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
return {1}
