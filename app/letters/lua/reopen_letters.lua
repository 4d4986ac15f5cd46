-- Return to "open" what is marked as retried although its job is nowhere: nothing may vanish, and
-- nothing be left over of that job.
-- KEYS  1 dead retrying  2 dead open (ZSETs)  3 queue (ZSET)  4 running (HASH)
-- ARGV  1 record prefix  2 job-key prefix  3 ms a retry must have been marked for
--       4 letters looked at most  5 score to begin after
-- Reply {score to begin after next time, or "" at the end, then the ids of the letters reopened}
-- Atomic, so that a retry that ends between the look and the mark is not undone.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local int = function(n) return string.format('%.0f', n) end
local limit = tonumber(ARGV[4])
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[5], int(now - tonumber(ARGV[3])), 'WITHSCORES', 'LIMIT', 0, limit)
local reply = {''}
for i = 1, #old, 2 do
  local letter = old[i]
  local record = ARGV[1] .. letter
  local job = letter .. '~r' .. (redis.call('HGET', record, 'redrives') or '0')
  if not redis.call('ZSCORE', KEYS[3], job) and redis.call('HEXISTS', KEYS[4], job) == 0 then
    redis.call('ZREM', KEYS[1], letter)
    redis.call('DEL', ARGV[2] .. job)
    if redis.call('HGET', record, 'state') == 'retrying' then
      redis.call('HSET', record, 'state', 'new', 'changed_ms', int(now), 'decision', 'ALERT',
                 'decision_reason', 'its retry ' .. job .. ' left the queue without a report')
      redis.call('ZADD', KEYS[2], int(now), letter)
      reply[#reply + 1] = letter
    end
  end
  if #old / 2 >= limit then reply[1] = old[i + 1] end
end
return reply
