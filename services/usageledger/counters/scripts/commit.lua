#!lua
-- Writes one commit whole if the head is as expected; otherwise changes nothing.
--
-- Scripts have no rollback: everything is checked before the first write, and after it nothing can
-- fail. (Without the flag allow-oom the server refuses to start a script for which it has no
-- memory.)
--
-- KEYS: head, accounts, due,
--       then the identities of each window that is written or dropped,
--       then of each account with settled holds: holds, hold_ends
-- ARGV[1]: the expected token, "" for an empty view
-- ARGV[2]: the new token
-- ARGV[3]: the head's new value
-- ARGV[4]: drop windows older than this, "" for none
-- ARGV[5], ARGV[6]: lists of words, see unpack_words:
--       1: account, state, account, state ...
--       2: ms, account, ms, account ... that are due
--       3: the accounts that are no longer due
--       4: the numbers of the windows in KEYS
--       then of each window in KEYS: identity, value ..., none if it is only to be dropped
--       then of each account with settled holds: id, source, id, source ..., each pair once
-- ARGV[7]: the view's as-of time (ms since 1970), "" for now
-- Reply:
-- * {1}: done. Only then was anything changed.
-- * {0, token}: the head is elsewhere.
-- * {2, windows}: these must be dropped too; call again with their keys.
-- * {3, key}: the view has no head, and yet this key exists.

local FIXED_KEYS = 3
local EXACT = 2 ^ 53 -- numbers are doubles here: whole ones are exact below this

local function list_windows(text)
  local list = {}
  for window in string.gmatch(text or '', '%S+') do
    list[#list + 1] = window
  end
  return list
end

local stored = redis.call('HMGET', KEYS[1], 'token', 'windows')
if (stored[1] or '') ~= ARGV[1] then
  return {0, stored[1]}
end

local change, length = unpack_words(ARGV[5], ARGV[6])
if length ~= #ARGV[6] then
  error({err = 'ERR the words are ' .. length .. ' bytes long, not ' .. #ARGV[6]})
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

local now = now_ms()

-- Adds to the parts what settles some of one account's holds. An open hold's credits are free
-- afterwards, and it is remembered as settled. One that has expired is free already, and one that
-- does not exist is ignored. So is one whose holder is another source. A holder that is no source,
-- such as a key, lets any use settle the hold: its uses may be reported to Kafka.
local function settle(holds, hold_ends, words)
  local sum, fields, ends = tonumber(redis.call('HGET', holds, '') or 0) or 0, {}, {}
  local ids, sources = {}, {} -- sources[id]: the sources whose uses name the hold
  for i = 1, #words - 1, 2 do
    local id, source = words[i], words[i + 1]
    if not sources[id] then
      ids[#ids + 1] = id
      sources[id] = {}
    end
    sources[id][source] = true
  end
  for from = 1, #ids, WORDS_PER_COMMAND do
    local to = math.min(from + WORDS_PER_COMMAND - 1, #ids)
    local found = redis.call('HMGET', holds, unpack(ids, from, to))
    for i = 1, to - from + 1 do
      local state, credits, counts_until, holder, content = parse_hold(found[i])
      local is_of_source = state and (string.sub(holder, 1, 7) ~= 'source:'
        or sources[ids[from + i - 1]][holder])
      if is_of_source and state ~= 'settled' and counts_until > now then
        if state == 'open' then
          sum = sum - credits
        end
        local until_ms = math.min(counts_until, now + REMEMBERED_MS)
        fields[#fields + 1] = ids[from + i - 1]
        fields[#fields + 1] = hold_text('settled', credits, until_ms, holder, content)
        ends[#ends + 1] = whole(until_ms - ENDED_BELOW_ZERO)
        ends[#ends + 1] = ids[from + i - 1]
      end
    end
  end
  if #fields > 0 then
    fields[#fields + 1] = ''
    fields[#fields + 1] = whole(math.max(0, sum))
    parts[#parts + 1] = {command = 'HSET', key = holds, words = fields, is_pairs = true}
    parts[#parts + 1] = {command = 'ZADD', key = hold_ends, words = ends, is_pairs = true}
  end
end

for k = last_window + 1, #KEYS, 2 do
  settle(KEYS[k], KEYS[k + 1], change[4 + #change[4] + (k - last_window + 1) / 2])
end

for _, part in ipairs(parts) do
  if part.is_pairs and #part.words % 2 ~= 0 then
    error({err = 'ERR an odd number of words for ' .. part.key})
  end
end
for i = 1, #change[2], 2 do
  local ms = tonumber(change[2][i])
  if not ms or ms ~= math.floor(ms) or math.abs(ms) >= EXACT then
    error({err = 'ERR not a time in ms: ' .. tostring(change[2][i])})
  end
end

-- From here on only writes, none of which can fail.

for _, part in ipairs(parts) do
  for from = 1, #part.words, WORDS_PER_COMMAND do
    local to = math.min(from + WORDS_PER_COMMAND - 1, #part.words)
    redis.call(part.command, part.key, unpack(part.words, from, to))
  end
end
for _, key in ipairs(dropped) do
  redis.call('UNLINK', key)
end
redis.call('HSET', KEYS[1], 'token', ARGV[2], 'value', ARGV[3],
  'windows', table.concat(kept, ' '), 'verified_at_ms', ARGV[7] ~= '' and ARGV[7] or whole(now))
return {1}
