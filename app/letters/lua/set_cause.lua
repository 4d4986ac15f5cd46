-- Set state, owner or note of a cause.
-- KEYS  1 cause (HASH)
-- ARGV  1 actor, then pairs of field and value: state · owner · note
-- Reply changed · already · missing
-- Atomic, so that a death that comes meanwhile finds the cause resolved with its time, or not at all.
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
if redis.call('EXISTS', KEYS[1]) == 0 then return 'missing' end
local changed = false
for i = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then
    changed = true
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    if ARGV[i] == 'state' and ARGV[i + 1] == 'resolved' then
      redis.call('HSET', KEYS[1], 'resolved_ms', now)
    end
  end
end
if not changed then return 'already' end
redis.call('HSET', KEYS[1], 'actor', ARGV[1], 'changed_ms', now)
return 'changed'
