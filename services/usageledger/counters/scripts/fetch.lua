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
-- ARGV: the token expected ("" for an empty view), and lists of words, packed: accounts, then the identities of each window asked about.
--       Packed: the words' lengths list by list in MessagePack, and all words joined. Two arguments instead of thousands, for it is
--       the client that pays for each
-- Reply: {1, accounts, identities}, both flat lists of (place counted from 1, value) with what was found only:
--        most identities are new, and a chunk of them should cost next to nothing to answer;
--        {0, token} the head is elsewhere

local SLICE = 1000 -- fields to one command: `unpack` puts them all on the C stack, which has room for 8,000

local token = redis.call('HGET', KEYS[1], 'token') or ''
if token ~= ARGV[1] then
  return {0, token}
end
if token == '' then
  return {1, {}, {}}
end

local function look_up(found, keys, words, place)
  for from = 1, #words, SLICE do
    local to = math.min(from + SLICE - 1, #words)
    local answers = {}
    for k, key in ipairs(keys) do
      answers[k] = redis.call('HMGET', key, unpack(words, from, to))
    end
    for i = 1, to - from + 1 do
      for k = 1, #keys do
        if answers[k][i] then
          found[#found + 1] = place + from - 1 + i
          found[#found + 1] = answers[k][i]
          break
        end
      end
    end
  end
end

local asked = cmsgpack.unpack(ARGV[2])
local position = 1
for _, list in ipairs(asked) do
  for i = 1, #list do
    local following = position + list[i]
    list[i] = string.sub(ARGV[3], position, following - 1)
    position = following
  end
end

local accounts, identities = {}, {}
look_up(accounts, {KEYS[2]}, asked[1], 0)
local place = 0
for w = 2, #asked do
  look_up(identities, {KEYS[2 * w - 1], KEYS[2 * w]}, asked[w], place)
  place = place + #asked[w]
end
return {1, accounts, identities}
