-- Put a notice on a list and raise its alert, once per mark and window.
-- KEYS  1 list (LIST)  2 mark (STRING)  3 alert (HASH)  4 alerts (ZSET)  5 outbox (ZSET)
-- ARGV  1 notice (JSON, or "")  2 window ms  3 notices kept  4 list TTL ms  5 alert id, or ""
--       6 alert TTL ms  7 alerts kept  8 alert-key prefix  9 deliveries kept  10 ms until a reminder
--      11 number of channels, the channels, then pairs of field and value of the alert
-- Reply 1 put, 0 there was one in this window.
-- Atomic, so that a processor that dies in between tells everything or nothing, and a storm told by
-- many processes is one alert.
local call = redis.call
if not call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[2]) then
  call('INCR', KEYS[2])  -- keeps the TTL; the value says how many the window held
  return 0
end
local t = call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local int = function(n) return string.format('%.0f', n) end
if ARGV[1] ~= '' then
  call('LPUSH', KEYS[1], ARGV[1])
  call('LTRIM', KEYS[1], 0, tonumber(ARGV[3]) - 1)
  call('PEXPIRE', KEYS[1], ARGV[4])
end
if ARGV[5] == '' then return 1 end
local first = 12 + tonumber(ARGV[11])
local seen = call('HMGET', KEYS[3], 'state', 'silenced_until_ms', 'sent_ms')
local state, tell = seen[1], false
if not state or state == 'resolved' then
  tell = true
  call('HSET', KEYS[3], 'state', 'firing', 'since_ms', int(now), 'changed_ms', int(now), 'resolved_ms', '0', 'delivery', '')
elseif state == 'firing' then
  tell = now - (tonumber(seen[3] or '') or 0) >= tonumber(ARGV[10])
end
call('HSET', KEYS[3], 'last_ms', int(now), unpack(ARGV, first))
call('HINCRBY', KEYS[3], 'times', 1)
call('PEXPIRE', KEYS[3], ARGV[6])
call('ZADD', KEYS[4], int(now), ARGV[5])
local over = call('ZCARD', KEYS[4]) - tonumber(ARGV[7])
if over > 0 then
  for _, name in ipairs(call('ZRANGE', KEYS[4], 0, over - 1)) do call('DEL', ARGV[8] .. name) end
  call('ZREMRANGEBYRANK', KEYS[4], 0, over - 1)
end
if tell and now >= (tonumber(seen[2] or '') or 0) then
  call('HSET', KEYS[3], 'sent_ms', int(now))
  for n = 12, first - 1 do call('ZADD', KEYS[5], 'NX', int(now), ARGV[n] .. '|' .. ARGV[5] .. '|firing') end
  call('ZREMRANGEBYRANK', KEYS[5], 0, -1 - tonumber(ARGV[9]))
end
return 1
