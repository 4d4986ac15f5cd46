-- Put one notice on a list, once per cause and window.
-- KEYS  1 list (LIST)  2 mark (STRING)
-- ARGV  1 notice (JSON)  2 window ms  3 notices kept  4 list TTL ms
-- Reply 1 put, 0 there was one in this window.
-- Atomic, so that a processor that dies between mark and notice loses no alert.
if not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[2]) then
  redis.call('INCR', KEYS[2])  -- keeps the TTL; the value says how many the window held
  return 0
end
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, tonumber(ARGV[3]) - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
