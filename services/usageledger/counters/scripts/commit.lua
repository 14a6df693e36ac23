#!lua
-- Writes one commit whole if the head is as expected; else changes nothing.
--
-- key                   type  holds
-- head                  hash  token "next_offset:hash" | value | verified_at_ms | windows "566 567", those that hold identities
-- accounts              hash  account -> state
-- due                   zset  account -> when it is due (ms since 1970)
-- identities:<window>   hash  identity -> what is remembered of it
-- holds:<account>       hash  hold id -> "state credits counts_until content" | "" -> the sum of the open ones: see hold.lua
-- hold_ends:<account>   zset  hold id -> counts_until; of one that is over, less 2^52
--
-- Scripts have no rollback: everything is checked before the first write, and after it nothing can fail.
-- (Without the flag allow-oom the server refuses a script that it has no memory for before it starts.)
--
-- KEYS: head, accounts, due, the keys of windows that are written or dropped, then of each account with settled holds: holds, hold_ends
-- ARGV: the token expected ("" for an empty view), the token to be, the head's value to be, drop windows older than this ("" for none),
--       and lists of words, packed: 1 account, state ...; 2 ms, account ... due; 3 account ... no longer due;
--       4 the numbers of the windows in KEYS; then of each window identity, value ..., none where it is only to be dropped; then of each
--       account with settled holds their ids, each once.
--       and last of when the view then is (ms since 1970), where that is not now ("").
--       Packed: the words' lengths list by list in MessagePack, and all words joined. Two arguments instead of thousands, for it is
--       the client that pays for each
-- Reply: {1} done; {0, token} the head is elsewhere; {2, windows} these are to be dropped too: call again with their keys;
--        {3, key} the view has no head and yet this key. Only after {1} was anything changed.

local SLICE = 1000 -- words to one command: `unpack` puts them all on the C stack, which has room for 8,000. Even: pairs stay together.
local FIXED_KEYS = 3
local KEPT_MS = 15 * 60 * 1000 -- for how long it is known of a hold that it was settled, where it would have counted for longer
local OVER = 2 ^ 52
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

local change = cmsgpack.unpack(ARGV[5])
local position = 1
for _, list in ipairs(change) do
  for i = 1, #list do
    local following = position + list[i]
    list[i] = string.sub(ARGV[6], position, following - 1)
    position = following
  end
end
if position ~= #ARGV[6] + 1 then
  error({err = 'ERR the words are ' .. (position - 1) .. ' bytes long, not ' .. #ARGV[6]})
end
local last_window = FIXED_KEYS + #change[4]

check_type(KEYS[2], 'hash')
check_type(KEYS[3], 'zset')
for k = FIXED_KEYS + 1, last_window do
  check_type(KEYS[k], 'hash')
end
for k = last_window + 1, #KEYS, 2 do
  check_type(KEYS[k], 'hash')
  check_type(KEYS[k + 1], 'zset')
end
if not stored[1] then
  for k = 2, last_window do
    if redis.call('EXISTS', KEYS[k]) == 1 then
      return {3, KEYS[k]}
    end
  end
end

local parts = {
  {command = 'HSET', key = KEYS[2], words = change[1], is_pairs = true},
  {command = 'ZADD', key = KEYS[3], words = change[2], is_pairs = true},
  {command = 'ZREM', key = KEYS[3], words = change[3]},
}

local given, is_kept = {}, {}
local kept, dropped, unknown = {}, {}, {}
local drop_before = tonumber(ARGV[4])
for k = FIXED_KEYS + 1, last_window do
  local number, words = change[4][k - FIXED_KEYS], change[4 + k - FIXED_KEYS]
  parts[#parts + 1] = {command = 'HSET', key = KEYS[k], words = words, is_pairs = true}
  given[number] = KEYS[k]
  if #words > 0 then
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

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- What settling makes of one account's holds: an open one's credits are free, and that it was settled is kept. One that has run out is free
-- already, and one that is not there is no matter.
local function settle(holds, hold_ends, ids)
  local sum, fields, ends = tonumber(redis.call('HGET', holds, '') or 0) or 0, {}, {}
  for from = 1, #ids, SLICE do
    local to = math.min(from + SLICE - 1, #ids)
    local found = redis.call('HMGET', holds, unpack(ids, from, to))
    for i = 1, to - from + 1 do
      local state, credits, counts_until, content = string.match(found[i] or '', '^(%a+) (%d+) (%d+) (.*)$')
      if state and state ~= 'settled' and tonumber(counts_until) > now then
        if state == 'open' then
          sum = sum - tonumber(credits)
        end
        local kept_until = math.min(tonumber(counts_until), now + KEPT_MS)
        fields[#fields + 1] = ids[from + i - 1]
        fields[#fields + 1] = string.format('settled %s %.0f %s', credits, kept_until, content)
        ends[#ends + 1] = string.format('%.0f', kept_until - OVER)
        ends[#ends + 1] = ids[from + i - 1]
      end
    end
  end
  if #fields > 0 then
    fields[#fields + 1] = ''
    fields[#fields + 1] = string.format('%.0f', math.max(0, sum))
    parts[#parts + 1] = {command = 'HSET', key = holds, words = fields, is_pairs = true}
    parts[#parts + 1] = {command = 'ZADD', key = hold_ends, words = ends, is_pairs = true}
  end
end

for k = last_window + 1, #KEYS, 2 do
  settle(KEYS[k], KEYS[k + 1], change[4 + #change[4] + (k - last_window + 1) / 2])
end

for _, p in ipairs(parts) do
  if p.is_pairs and #p.words % 2 ~= 0 then
    error({err = 'ERR an odd number of words for ' .. p.key})
  end
end
for i = 1, #change[2], 2 do
  local ms = tonumber(change[2][i])
  if not ms or ms ~= math.floor(ms) or math.abs(ms) >= EXACT then
    error({err = 'ERR not a time in ms: ' .. tostring(change[2][i])})
  end
end

-- From here on only writes, none of which can fail.

for _, p in ipairs(parts) do
  for from = 1, #p.words, SLICE do
    redis.call(p.command, p.key, unpack(p.words, from, math.min(from + SLICE - 1, #p.words)))
  end
end
for _, key in ipairs(dropped) do
  redis.call('UNLINK', key)
end
redis.call('HSET', KEYS[1], 'token', ARGV[2], 'value', ARGV[3], 'windows', table.concat(kept, ' '),
  'verified_at_ms', ARGV[7] ~= '' and ARGV[7] or string.format('%.0f', now))
return {1}
