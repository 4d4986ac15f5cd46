-- Keep one sample; a full list loses a random member for it.
-- KEYS  1 samples (LIST)
-- ARGV  1 sample  2 samples kept  3 index of the member to replace  4 TTL ms
-- Reply the length.
-- Atomic, so that many workers never make the list longer than it may be.
local length = redis.call('LLEN', KEYS[1])
if length < tonumber(ARGV[2]) then
  length = redis.call('RPUSH', KEYS[1], ARGV[1])
else
  redis.call('LSET', KEYS[1], ARGV[3], ARGV[1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return length
