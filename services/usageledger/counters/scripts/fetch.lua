#!lua flags=no-writes
-- Looks up accounts and identities if the head is as expected.
--
-- A token stands for everything that was folded up to it, so any server with the token has the
-- right answers.
--
-- KEYS: head, accounts,
--       then for each window that is searched: its identities, those of the window before it
-- ARGV[1]: the expected token, "" for an empty view
-- ARGV[2], ARGV[3]: lists of words, see unpack_words: accounts, then each window's identities
-- Reply: {1, accounts, identities}: both are flat lists of (index counted from 1, value) of what
--        was found. Most identities are new, so a chunk of them costs next to nothing to answer.
--        {0, token} the head is elsewhere

local token = redis.call('HGET', KEYS[1], 'token') or ''
if token ~= ARGV[1] then
  return {0, token}
end
if token == '' then
  return {1, {}, {}}
end

-- Appends to `found` each word's index, counted on from `before`, and its value under the first
-- key that has it.
local function look_up(found, keys, words, before)
  for from = 1, #words, WORDS_PER_COMMAND do
    local to = math.min(from + WORDS_PER_COMMAND - 1, #words)
    local answers = {}
    for k, key in ipairs(keys) do
      answers[k] = redis.call('HMGET', key, unpack(words, from, to))
    end
    for i = 1, to - from + 1 do
      for k = 1, #keys do
        if answers[k][i] then
          found[#found + 1] = before + from - 1 + i
          found[#found + 1] = answers[k][i]
          break
        end
      end
    end
  end
end

local lists = unpack_words(ARGV[2], ARGV[3])
local accounts, identities = {}, {}
look_up(accounts, {KEYS[2]}, lists[1], 0)
local before = 0
for w = 2, #lists do
  look_up(identities, {KEYS[2 * w - 1], KEYS[2 * w]}, lists[w], before)
  before = before + #lists[w]
end
return {1, accounts, identities}
