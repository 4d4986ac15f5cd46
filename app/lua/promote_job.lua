-- Make a deferred job due now.
-- KEYS  1 queue (ZSET)  2 lease of the job (STRING)  3 wake (LIST)
-- ARGV  1 job id
-- Reply a word: promoted · due (already) · running · missing
-- Atomic, because the score of a running job is the end of its lease and must not be touched.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 1 then return 'running' end
if not score then return 'missing' end
if tonumber(score) <= now then return 'due' end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('LPUSH', KEYS[3], '1')
redis.call('LTRIM', KEYS[3], 0, 15)
return 'promoted'
