-- Extend the leases a worker still holds and say which ones it lost.
-- KEYS  1 queue (ZSET)  2 running (HASH)
-- ARGV  1 in-progress prefix  2 lease ms  then per job: id, token
-- Reply the ids whose lease went to another worker or ended.
-- Atomic, so that a lease is never extended for a worker that lost it a moment ago. A lease key that
-- expired while nobody took the job (Redis was away) is made again: the running mark is the truth.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local lost, scores = {}, {}
for i = 3, #ARGV, 2 do
  local id, token = ARGV[i], ARGV[i + 1]
  local mark = redis.call('HGET', KEYS[2], id)
  local held = redis.call('GET', ARGV[1] .. id)
  if mark and string.match(mark, '^%d+:%d+:%d+:(.*)$') == token and (not held or held == token) then
    redis.call('SET', ARGV[1] .. id, token, 'PX', ARGV[2])
    scores[#scores + 1] = string.format('%.0f', now + ARGV[2])
    scores[#scores + 1] = id
  else
    lost[#lost + 1] = id
  end
end
if #scores > 0 then redis.call('ZADD', KEYS[1], 'XX', unpack(scores)) end
return lost
