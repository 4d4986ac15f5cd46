-- Note what an event says about a thing, unless a later event said something already.
-- KEYS  1 status (HASH)  2 statuses of its kind (ZSET)
-- ARGV  1 subject  2 id of the entry  3 seconds it is kept  4 subjects kept  5 status prefix
--       then fields and values
-- Reply 1 noted, 0 a later entry was first.
-- Atomic, so that two processors cannot put an older word over a newer one. Repeated, it changes nothing.
local function parts(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end
local before = redis.call('HGET', KEYS[1], 'entry')
if before then
  local ms, n = parts(before)
  local my_ms, my_n = parts(ARGV[2])
  if ms > my_ms or (ms == my_ms and n > my_n) then return 0 end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'entry', ARGV[2], unpack(ARGV, 6))
redis.call('EXPIRE', KEYS[1], ARGV[3])
local t = redis.call('TIME')
redis.call('ZADD', KEYS[2], string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)), ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[3])
local over = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[4])
if over > 0 then
  for _, subject in ipairs(redis.call('ZRANGE', KEYS[2], 0, over - 1)) do
    redis.call('DEL', ARGV[5] .. subject)
  end
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, over - 1)
end
return 1
