-- Append one dead event to its stream again, once, whoever asks how often.
-- KEYS  1 record (HASH)  2 dead open  3 dead retrying (ZSETs)  4 stream  5 totals (HASH)
-- ARGV  1 letter id  2 actor  3 redrives the asker saw, or "" for any  4 decision  5 its reason
--       6 "1" when only a letter without decision may be taken  7 lineage: JSON object of facts
--       then: the raw fields and values, edited or not
-- Reply {word, entry id}: redriven · already · state:<state> · missing · changed
-- Atomic, so that two clicks and the automatic retry append one entry, and so that a letter is never
-- marked as retried without its entry. The fields never change after death, so that the caller may
-- have read them before; "redrivenFrom" ties the copy to its letter.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local int = function(n) return string.format('%.0f', n) end
local seen = redis.call('HMGET', KEYS[1], 'state', 'redrives', 'decision', 'retry_id')
local state, redrives = seen[1], tonumber(seen[2] or '0') or 0
if not state then return {'missing', ''} end
if state == 'retrying' then return {'already', seen[4] or ''} end
if state ~= 'new' then return {'state:' .. state, ''} end
if ARGV[3] ~= '' and tonumber(ARGV[3]) ~= redrives then return {'changed', ''} end
if ARGV[6] == '1' and seen[3] and seen[3] ~= '' then return {'changed', ''} end
local fields = {}
for i = 8, #ARGV, 2 do
  if ARGV[i] ~= 'redrivenFrom' then
    fields[#fields + 1] = ARGV[i]
    fields[#fields + 1] = ARGV[i + 1]
  end
end
fields[#fields + 1] = 'redrivenFrom'
fields[#fields + 1] = ARGV[1]
local id = redis.call('XADD', KEYS[4], '*', unpack(fields))
local n = int(redrives + 1)
redis.call('HSET', KEYS[1], 'state', 'retrying', 'redrives', n, 'retry_id', id,
           'changed_ms', int(now), 'actor', ARGV[2], 'decision', ARGV[4], 'decision_reason', ARGV[5],
           'redrive:' .. n, '{"at_ms":' .. int(now) .. ',' .. string.sub(ARGV[7], 2))
redis.call('HDEL', KEYS[1], 'redrive:' .. int(redrives - 99))  -- the last 100 are told
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], int(now), ARGV[1])
redis.call('HINCRBY', KEYS[5], 'redriven', 1)
return {'redriven', id}
