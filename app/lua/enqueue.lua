-- Put a batch of jobs on one queue; each is accepted once, whoever asks how often.
-- KEYS  1 queue (ZSET)  2 wake (LIST)  3 totals (HASH)  4 registry of queues (SET)
-- ARGV  1 queue name  2 result-key prefix  3 job-key prefix  4 vault prefix (payload copies)
--       5 ms a payload lives that does not expire  6 ms a copy outlives a payload that does
--       then per job: id, delay in ms after now (or "@<epoch ms>"), payload TTL beyond that in ms, payload
-- Reply one integer per job: 1 accepted, 0 a job or result of that id exists already.
-- Atomic, so that a job is never without its payload nor a payload without its job, and so that two
-- callers with one id make one job. A payload that expires is copied, for the dead letter the job then
-- becomes. Time is Redis' own: producers' clocks do not matter.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local replies, scores, accepted, due_now = {}, {}, 0, false
for i = 7, #ARGV, 4 do
  local id, when, ttl, payload = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  local due
  if string.sub(when, 1, 1) == '@' then due = tonumber(string.sub(when, 2)) else due = now + tonumber(when) end
  local expires = ttl + math.max(0, due - now)
  if redis.call('EXISTS', ARGV[2] .. id) == 0
     and redis.call('SET', ARGV[3] .. id, payload, 'NX', 'PX', string.format('%.0f', expires)) then
    scores[#scores + 1] = string.format('%.0f', due)
    scores[#scores + 1] = id
    accepted = accepted + 1
    replies[#replies + 1] = 1
    if due <= now then due_now = true end
    if ttl < tonumber(ARGV[5]) then
      redis.call('SET', ARGV[4] .. id, payload, 'PX', string.format('%.0f', expires + ARGV[6]))
    end
  else
    replies[#replies + 1] = 0
  end
end
if accepted > 0 then
  for i = 1, #scores, 4000 do
    redis.call('ZADD', KEYS[1], unpack(scores, i, math.min(i + 3999, #scores)))
  end
  redis.call('HINCRBY', KEYS[3], 'accepted', accepted)
  redis.call('SADD', KEYS[4], ARGV[1])
  -- A token wakes one idle worker; a deferred job needs one too, so that the sleeper learns the new due time.
  local tokens = 1
  if accepted > 1 and due_now then tokens = 4 end
  for _ = 1, tokens do redis.call('LPUSH', KEYS[2], '1') end
  redis.call('LTRIM', KEYS[2], 0, 15)
end
return replies
