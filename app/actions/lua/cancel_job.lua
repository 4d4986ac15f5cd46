-- Take a job that does not run off its queue, or ask for the abort of one that runs.
-- KEYS  1 queue (ZSET)  2 running (HASH)  3 attempts (HASH)  4 totals (HASH)  5 arq:abort (ZSET)
--       6 payload  7 lease  8 stock tries (STRINGs)  9 dead open  10 dead retrying (ZSETs)
--      11 record of the root's dead letter (HASH)  12 progress (HASH)  13 dead closed (ZSET)
--      14 record of the job's own letter (HASH)  15 its payload  16 vault copy (STRINGs)
-- ARGV  1 job id  2 "1" when a running job shall be aborted  3 root id, or "" when it is no retry
--       4 latest score to cancel, or "" for any
--       5 JSON object of the letter's fields, or "" when nothing shall be kept (the queue is cleaned)
-- Reply a word: cancelled · aborting · running · missing · newer
-- Atomic, so that no worker claims the job between the look and the removal, and so that the dead
-- letter a cancelled retry came from is open again and not "retrying" for ever.
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[7]) == 1 then
  if ARGV[2] ~= '1' then return 'running' end
  redis.call('ZADD', KEYS[5], now, ARGV[1])
  return 'aborting'
end
if not score then return 'missing' end
if ARGV[4] ~= '' and tonumber(score) > tonumber(ARGV[4]) then return 'newer' end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
if ARGV[5] ~= '' and ARGV[3] == '' and not redis.call('ZSCORE', KEYS[9], ARGV[1])
   and not redis.call('ZSCORE', KEYS[10], ARGV[1]) then  -- on purpose: closed, and can be reopened
  redis.call('DEL', KEYS[14])
  if redis.call('COPY', KEYS[6], KEYS[15], 'REPLACE') == 0 then
    redis.call('COPY', KEYS[16], KEYS[15], 'REPLACE')
  end
  redis.call('PERSIST', KEYS[15])
  local flat = {'id', ARGV[1], 'died_ms', now, 'changed_ms', now, 'state', 'discarded', 'decision', 'ABORT'}
  for k, v in pairs(cjson.decode(ARGV[5])) do
    flat[#flat + 1] = k
    flat[#flat + 1] = v
  end
  redis.call('HSET', KEYS[14], unpack(flat))
  redis.call('ZADD', KEYS[13], now, ARGV[1])
end
redis.call('DEL', KEYS[6], KEYS[8], KEYS[12], KEYS[16])
redis.call('HINCRBY', KEYS[4], 'aborted', 1)
if ARGV[3] ~= '' and redis.call('ZREM', KEYS[10], ARGV[3]) == 1 then
  redis.call('HSET', KEYS[11], 'state', 'new', 'changed_ms', now,
             'decision', 'NONE', 'decision_reason', 'its retry ' .. ARGV[1] .. ' was cancelled')
  redis.call('ZADD', KEYS[9], now, ARGV[3])
end
return 'cancelled'
