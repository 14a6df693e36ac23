-- Shared by all scripts: `scripts/__init__.py` puts this behind the first line of each.
--
-- The keys of one partition. Each script names those that it uses.
--
--    key                   type  contents
--    head                  hash  token "next_offset:hash" | value | verified_at_ms
--                                | windows: those that have identities, such as "566 567"
--    accounts              hash  account -> state
--    due                   zset  account -> when it is due (ms since 1970)
--    identities:<window>   hash  identity -> what is remembered about it
--    holds:<account>       hash  hold id -> "state credits counts_until holder content"
--                                | "" -> the sum of the open holds' credits
--    placed                zset  "<length of the account>:<account><hold id>" -> counts_until, of
--    placed_by:<holder>    zset  holds that were placed and may have ended before that
--    hold_ends:<account>   zset  hold id -> counts_until (ms since 1970);
--                                of a hold that has ended: counts_until - ENDED_BELOW_ZERO
--
-- The state of a hold is open, settled or released. A hold that is settled or released has ended.
-- It is remembered until counts_until, so that a late repeat of its request is recognized. The
-- holder is a word without spaces, and empty for a hold that anybody may release.

-- Subtracted from the score of a hold that has ended. Open holds have scores above 0 and ended ones
-- below, so a range finds either kind without the other. For example, a hold that is remembered as
-- settled until 1767225600000 has the score 1767225600000 - 2^52 = -4501832401770496.
local ENDED_BELOW_ZERO = 2 ^ 52

-- For how long a hold that was settled or released is remembered, if it would have counted longer.
local REMEMBERED_MS = 15 * 60 * 1000

-- Words to one command: `unpack` puts them on the C stack, which has room for 8,000. The number is
-- even, so that pairs stay together.
local WORDS_PER_COMMAND = 1000

-- The server's time in ms since 1970.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A whole number as text. `tostring` would write a large one with an exponent.
local function whole(number)
  return string.format('%.0f', number)
end

-- Fails unless the key has the expected type or does not exist.
local function check_type(key, expected)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= expected then
    error({err = 'WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. expected})
  end
end

-- A stored hold's state, credits, counts_until, holder and content; nil for false.
local function parse_hold(hold)
  local state, credits, counts_until, holder, content =
    string.match(hold or '', '^(%a+) (%d+) (%d+) (%S*) (.*)$')
  return state, tonumber(credits), tonumber(counts_until), holder, content
end

-- A hold as it is stored.
local function hold_text(state, credits, counts_until, holder, content)
  return string.format(
    '%s %s %s %s %s', state, whole(credits), whole(counts_until), holder, content)
end

-- The sum of open holds as stored, less those that have expired and were not swept away yet.
local function open_sum(stored_sum, holds, expired)
  local sum = tonumber(stored_sum or 0) or 0
  if #expired > 0 then
    for _, hold in ipairs(redis.call('HMGET', holds, unpack(expired))) do
      local _, credits = parse_hold(hold)
      sum = math.max(0, sum - (credits or 0))
    end
  end
  return sum
end

-- The ids of holds that have expired: they are swept away when the next hold is placed, and until
-- then the stored sum includes them.
local function expired_holds(hold_ends, now)
  return redis.call('ZRANGEBYSCORE', hold_ends, 0, whole(now))
end

-- Lists of words from two arguments: the words' lengths list by list in MessagePack, and all words
-- joined. Two arguments instead of thousands, because the client pays for each. The second result
-- is the length of all words.
local function unpack_words(lengths, joined)
  local lists = cmsgpack.unpack(lengths)
  local position = 1
  for _, list in ipairs(lists) do
    for i = 1, #list do
      local following = position + list[i]
      list[i] = string.sub(joined, position, following - 1)
      position = following
    end
  end
  return lists, position - 1
end

