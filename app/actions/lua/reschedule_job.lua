-- Give a waiting job another due time.
-- KEYS  1 queue (ZSET)  2 lease of the job (STRING)  3 wake (LIST)  4 payload (STRING)
--       5 running (HASH)  6 vault copy of the payload (STRING)
-- ARGV  1 job id  2 ms after now ("0": now)
-- Reply a word: rescheduled · due (it was asked to be due now, and is) · running · missing
-- Atomic, because the score of a running job is the end of its lease and must not be touched. The payload
-- (and its copy) lives longer by as much as the job is put off, so that it outlives the new due time as it would have
-- outlived the old. Redis' clock decides.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 1 then return 'running' end
if not score then return 'missing' end
score = tonumber(score)
local delay = tonumber(ARGV[2])
if delay == 0 and score <= now then return 'due' end
if redis.call('HEXISTS', KEYS[5], ARGV[1]) == 1 and score > now then return 'running' end
local later = now + delay - math.max(score, now)
for _, key in ipairs({KEYS[4], KEYS[6]}) do
  local ttl = redis.call('PTTL', key)
  if ttl > 0 and later > 0 then
    redis.call('PEXPIRE', key, string.format('%.0f', ttl + later))
  end
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + delay), ARGV[1])
redis.call('LPUSH', KEYS[3], '1')  -- a sleeper must learn of the new due time
redis.call('LTRIM', KEYS[3], 0, 15)
return 'rescheduled'
