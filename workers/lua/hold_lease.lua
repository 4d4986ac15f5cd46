-- Take or renew a lease that one process may hold.
-- KEYS  1 lease (STRING)
-- ARGV  1 token of the asker  2 TTL ms ("0": give it back)
-- Reply 1 when the asker holds it now, else 0.
-- Atomic, so that a lease that ran out is not renewed over its new holder.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
