-- Put one dead job back on its queue as "<root>~r<n>", once, whoever asks how often.
-- KEYS  1 record (HASH)  2 kept payload (STRING)  3 dead open  4 dead retrying (ZSETs)
--       5 queue (ZSET)  6 running (HASH)  7 totals (HASH)  8 wake (LIST)  9 registry of queues (SET)
--      10 lease of the asking processor (STRING; any key when ARGV[6] is "")
-- ARGV  1 letter id  2 job-key prefix  3 delay ms  4 actor
--       5 redrives the asker saw, or "" for any  6 lease token, or ""  7 decision  8 its reason
--       9 "1" a person asks: a retry of the processor that still waits shall run now; "0" the
--       processor asks: only a letter without decision may be taken  10 queue name
--      11 payload with edited arguments, or "" for the kept bytes  12 lineage: JSON object of facts
-- Reply {word, job id}: redriven · already (retrying) · promoted · state:<state> · missing · no-payload
--       · changed (not as the asker saw it) · fenced
-- Atomic, so that two clicks and the automatic retry make one job, and so that a letter is never
-- marked as retried without its job, nor its job made without the mark. The bytes are copied by
-- Redis (COPY, since 6.2) and never pass through a client; edited ones go to the job only, the letter
-- keeps what died. The payload of a retry has no TTL: it goes with its job, or when its letter is
-- reopened (reopen_letters). A retry under way is never replaced by an edited one.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local int = function(n) return string.format('%.0f', n) end
if ARGV[6] ~= '' and redis.call('GET', KEYS[10]) ~= ARGV[6] then return {'fenced', ''} end
local seen = redis.call('HMGET', KEYS[1], 'state', 'redrives', 'actor', 'decision')
local state, redrives = seen[1], tonumber(seen[2] or '0') or 0
if not state then return {'missing', ''} end
local delay = tonumber(ARGV[3])
if state == 'retrying' then
  local id = ARGV[1] .. '~r' .. int(redrives)
  if ARGV[9] == '1' and ARGV[11] == '' and seen[3] == 'policy' and redis.call('HEXISTS', KEYS[6], id) == 0 then
    local due = redis.call('ZSCORE', KEYS[5], id)
    if due and tonumber(due) > now + delay then
      redis.call('ZADD', KEYS[5], int(now + delay), id)
      redis.call('HSET', KEYS[1], 'actor', ARGV[4], 'changed_ms', int(now))
      redis.call('LPUSH', KEYS[8], '1')
      redis.call('LTRIM', KEYS[8], 0, 15)
      return {'promoted', id}
    end
  end
  return {'already', id}
end
if state ~= 'new' then return {'state:' .. state, ''} end
if ARGV[5] ~= '' and tonumber(ARGV[5]) ~= redrives then return {'changed', ''} end
if ARGV[9] == '0' and seen[4] and seen[4] ~= '' then return {'changed', ''} end
local n = int(redrives + 1)
local id = ARGV[1] .. '~r' .. n
if ARGV[11] ~= '' then
  redis.call('SET', ARGV[2] .. id, ARGV[11])
elseif redis.call('COPY', KEYS[2], ARGV[2] .. id, 'REPLACE') == 0 then
  return {'no-payload', ''}
end
redis.call('ZADD', KEYS[5], int(now + delay), id)
redis.call('HSET', KEYS[1], 'state', 'retrying', 'redrives', n, 'changed_ms', int(now),
           'actor', ARGV[4], 'decision', ARGV[7], 'decision_reason', ARGV[8],
           'redrive:' .. n, '{"at_ms":' .. int(now) .. ',' .. string.sub(ARGV[12], 2))
redis.call('HDEL', KEYS[1], 'redrive:' .. int(redrives - 99))  -- the last 100 are told
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[4], int(now), ARGV[1])
redis.call('HINCRBY', KEYS[7], 'redriven', 1)
redis.call('HINCRBY', KEYS[7], 'accepted', 1)
redis.call('SADD', KEYS[9], ARGV[10])
redis.call('LPUSH', KEYS[8], '1')
redis.call('LTRIM', KEYS[8], 0, 15)
return {'redriven', id}
