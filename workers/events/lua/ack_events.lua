-- Record that a batch of events was handled: acknowledge, count, show and resolve in one step.
-- KEYS  1 stream  2 totals (HASH)  3 recent (STREAM)  4 attempts (HASH)  5 dead retrying
--       6 dead closed (ZSETs)  7 checkpoints (HASH group -> id)
-- ARGV  1 group  2 cap of the recent stream  3 dead record prefix  4 handled prefix
--       5 seconds the dedup of a settled event is still kept  6 consumer  7 number n of plain ids
--       8 … 7+n: plain ids: handled at the first try, leaving nothing behind, not shown
--       then per event: id, identity, type, handlers, outcome (handled, unmatched, trimmed, again),
--       ms, correlation id, letter id (of a redriven or dead event, or ""), number m of marks, m marks:
--       entries its dedup must have
-- Reply the ids somebody else had settled, and those whose effects Redis knows nothing of.
-- Atomic, so that an event is never acknowledged without being counted nor counted twice, and a dead
-- letter is resolved in the moment its redriven copy is. The checkpoint (nothing at or below it is
-- pending) is what a destroyed group is made again from. Plain ids keep a busy stream cheap: one
-- command each, where a shown event takes three. A Redis that came back from an earlier moment (a power
-- cut, a promoted replica) has forgotten effects the processor believes in: their marks tell, the event
-- stays pending. 'again' is an event this processor settled before: acknowledged, not counted; a dead one
-- must have its letter.
local stream, group = KEYS[1], ARGV[1]
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local counts, lost, undone, settled = {}, {}, {}, {}
local function count(field) counts[field] = (counts[field] or 0) + 1 end
local function is_whole(i, identity, outcome, letter)
  for k = i + 9, i + 8 + tonumber(ARGV[i + 8]) do
    if redis.call('HEXISTS', ARGV[4] .. identity, ARGV[k]) == 0 then return false end
  end
  return outcome ~= 'again' or letter == '' or redis.call('EXISTS', ARGV[3] .. letter) == 1
end
local plain = tonumber(ARGV[7])
local won = 0
for i = 8, 7 + plain do
  if redis.call('XACK', stream, group, ARGV[i]) == 1 then
    won = won + 1
  else
    lost[#lost + 1] = ARGV[i]
  end
end
if won > 0 then counts['processed'] = won end
local i = 8 + plain
while i <= #ARGV do
  local id, identity, kind, outcome, letter = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 4], ARGV[i + 7]
  local is_won = false
  if is_whole(i, identity, outcome, letter) then
    is_won = redis.call('XACK', stream, group, id) == 1
  elseif redis.call('XPENDING', stream, group, id, id, 1, ARGV[6])[1] then
    outcome = 'undone'
  end
  if outcome == 'undone' then
    undone[#undone + 1] = id
  elseif is_won and outcome == 'again' then
    settled[#settled + 1] = id
  elseif is_won and outcome == 'trimmed' then
    settled[#settled + 1] = id
    count('trimmed')
  elseif is_won then
    settled[#settled + 1] = id
    count('processed')
    if outcome == 'unmatched' then count('unmatched') end
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[2], '*', 'id', id, 'type', kind,
      'handlers', ARGV[i + 3], 'outcome', outcome, 'ms', ARGV[i + 5], 'correlationId', ARGV[i + 6])
    redis.call('EXPIRE', ARGV[4] .. identity, ARGV[5])
    if letter ~= '' and redis.call('EXISTS', ARGV[3] .. letter) == 1 then
      redis.call('HSET', ARGV[3] .. letter, 'state', 'resolved', 'changed_ms', now)
      redis.call('ZREM', KEYS[5], letter)
      redis.call('ZADD', KEYS[6], now, letter)
      count('resolved')
    end
  else
    lost[#lost + 1] = id
  end
  i = i + 9 + tonumber(ARGV[i + 8])
end
if #settled > 0 then redis.call('HDEL', KEYS[4], unpack(settled)) end
for field, n in pairs(counts) do redis.call('HINCRBY', KEYS[2], field, n) end
local pending = redis.call('XPENDING', stream, group)
if pending[1] == 0 then
  for _, row in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local facts = {}
    for i = 1, #row, 2 do facts[row[i]] = row[i + 1] end
    if facts['name'] == group then
      redis.call('HSET', KEYS[7], group, facts['last-delivered-id'])
    end
  end
else
  redis.call('HSET', KEYS[7], group, '(' .. pending[2])
end
return {lost, undone}
