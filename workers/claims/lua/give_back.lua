-- Put back jobs a worker was handed without hearing of it: the reply to its claim was lost.
-- KEYS  1 queue (ZSET)  2 running (HASH)  3 wake (LIST)
-- ARGV  1 in-progress prefix  2 worker id  then the ids this worker knows it has
-- Reply the ids put back, due when they were due before.
-- Atomic, so that a job is put back only while its mark still names this worker. Otherwise it would
-- lie until its lease ends and count as a crash it never had. Reads all running marks: run it only
-- after a claim failed.
local known = {}
for i = 3, #ARGV do known[ARGV[i]] = true end
local marks = redis.call('HGETALL', KEYS[2])
local back = {}
for i = 1, #marks, 2 do
  local id = marks[i]
  local due, owner = string.match(marks[i + 1], '^%d+:(%d+):%d+:(.*)$')
  if owner and not known[id] and string.match(owner, '^(.*)#%d+$') == ARGV[2] then
    local lease = redis.call('GET', ARGV[1] .. id)
    if not lease or lease == owner then
      redis.call('DEL', ARGV[1] .. id)
      redis.call('HDEL', KEYS[2], id)
      redis.call('ZADD', KEYS[1], 'XX', due, id)
      back[#back + 1] = id
    end
  end
end
if #back > 0 then
  redis.call('LPUSH', KEYS[3], '1')
  redis.call('LTRIM', KEYS[3], 0, 15)
end
return back
