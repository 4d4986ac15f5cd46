-- Close an open dead letter (discard, archive), open a closed one again, or note what was decided.
-- KEYS  1 record (HASH)  2 dead open  3 dead closed (ZSETs)  4 totals (HASH)
--       5 lease of the asking processor (STRING; any key when ARGV[6] is "")
-- ARGV  1 letter id  2 wanted: discarded · archived · new (undo) · noted  3 actor  4 decision
--       5 its reason  6 lease token, or ""  7 ms an undo may come after  8 "1" when only a letter
--       without decision may be taken
-- Reply a word: done · already · state:<state> · missing · changed · fenced · late
-- Atomic, so that a letter is in exactly one of open and closed and its record says which; compared
-- with its state, so that a discard never overtakes a retry that was pressed a moment before.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local int = function(n) return string.format('%.0f', n) end
if ARGV[6] ~= '' and redis.call('GET', KEYS[5]) ~= ARGV[6] then return 'fenced' end
local seen = redis.call('HMGET', KEYS[1], 'state', 'decision', 'changed_ms', 'died_ms')
local state, wanted = seen[1], ARGV[2]
if not state then return 'missing' end
if state == wanted then return 'already' end
if wanted == 'new' then
  if state ~= 'discarded' and state ~= 'archived' then return 'state:' .. state end
  if now - (tonumber(seen[3] or '0') or 0) > tonumber(ARGV[7]) then return 'late' end
  redis.call('HSET', KEYS[1], 'state', 'new', 'changed_ms', int(now), 'actor', ARGV[3],
             'decision', ARGV[4], 'decision_reason', ARGV[5])
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('ZADD', KEYS[2], int(tonumber(seen[4] or '') or now), ARGV[1])
  if seen[2] == 'ABORT' then  -- counted as aborted so far: from now on it is a dead job
    redis.call('HINCRBY', KEYS[4], 'unaborted', 1)
    redis.call('HINCRBY', KEYS[4], 'dead', 1)
  else
    redis.call('HINCRBY', KEYS[4], state, -1)  -- totals say what is discarded, not what once was
    redis.call('HINCRBY', KEYS[4], 'undone', 1)
  end
  return 'done'
end
if state ~= 'new' then return 'state:' .. state end
if ARGV[8] == '1' and seen[2] and seen[2] ~= '' then return 'changed' end
redis.call('HSET', KEYS[1], 'decision', ARGV[4], 'decision_reason', ARGV[5])
if wanted == 'noted' then return 'done' end
redis.call('HSET', KEYS[1], 'state', wanted, 'changed_ms', int(now), 'actor', ARGV[3])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], int(now), ARGV[1])
redis.call('HINCRBY', KEYS[4], wanted, 1)
return 'done'
