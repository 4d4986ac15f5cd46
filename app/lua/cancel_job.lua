-- Take a job that does not run off its queue, or ask for the abort of one that runs.
-- KEYS  1 queue (ZSET)  2 running (HASH)  3 attempts (HASH)  4 totals (HASH)  5 arq:abort (ZSET)
--       6 payload  7 lease  8 stock tries (STRINGs)  9 dead open  10 dead retrying (ZSETs)
--      11 record of the root's dead letter (HASH)  12 progress (HASH)
-- ARGV  1 job id  2 "1" when a running job shall be aborted  3 root id, or "" when it is no retry
--       4 latest score to cancel, or "" for any
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
redis.call('DEL', KEYS[6], KEYS[8], KEYS[12])
redis.call('HINCRBY', KEYS[4], 'aborted', 1)
if ARGV[3] ~= '' and redis.call('ZREM', KEYS[10], ARGV[3]) == 1 then
  redis.call('HSET', KEYS[11], 'state', 'new', 'changed_ms', now,
             'decision', 'NONE', 'decision_reason', 'its retry ' .. ARGV[1] .. ' was cancelled')
  redis.call('ZADD', KEYS[9], now, ARGV[3])
end
return 'cancelled'
