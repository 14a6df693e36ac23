#!lua flags=no-writes
-- Looks up accounts and identities if the head is as expected.
--
-- key                   type  holds
-- head                  hash  token "next_offset:hash" | value | verified_at_ms | windows
-- accounts              hash  account -> state
-- identities:<window>   hash  identity -> what is remembered of it
--
-- A token stands for all that was folded up to it, so whichever server has the token has the right answers.
--
-- KEYS: head, accounts, then for each window asked about: its key, the key of the window before
-- ARGV: the token expected ("" for an empty view), the number of accounts,
--       for each window asked about the number of its identities, the accounts, the identities window by window
-- Reply: {1, accounts, identities}, both flat lists of (place counted from 1, value) with what was found only:
--        most identities are new, and a chunk of them should cost next to nothing to answer;
--        {0, token} the head is elsewhere

local SLICE = 1000 -- words to one command: `unpack` puts them all on the C stack, which has room for 8,000

local token = redis.call('HGET', KEYS[1], 'token') or ''
if token ~= ARGV[1] then
  return {0, token}
end
if token == '' then
  return {1, {}, {}}
end

local function look_up(found, keys, first, count, place)
  for from = first, first + count - 1, SLICE do
    local to = math.min(from + SLICE, first + count) - 1
    local answers = {}
    for k, key in ipairs(keys) do
      answers[k] = redis.call('HMGET', key, unpack(ARGV, from, to))
    end
    for i = 1, to - from + 1 do
      for k = 1, #keys do
        if answers[k][i] then
          found[#found + 1] = place + from - first + i
          found[#found + 1] = answers[k][i]
          break
        end
      end
    end
  end
end

local windows = (#KEYS - 2) / 2
local account_count = tonumber(ARGV[2])
local next_word = 3 + windows

local accounts = {}
look_up(accounts, {KEYS[2]}, next_word, account_count, 0)
next_word = next_word + account_count

local identities = {}
local place = 0
for w = 1, windows do
  local count = tonumber(ARGV[2 + w])
  look_up(identities, {KEYS[1 + 2 * w], KEYS[2 + 2 * w]}, next_word, count, place)
  next_word = next_word + count
  place = place + count
end
return {1, accounts, identities}
