-- End an alert and say so on the channels that were told of it.
-- KEYS  1 alert (HASH)  2 alerts (ZSET)  3 outbox (ZSET)
-- ARGV  1 alert id  2 why  3 alert TTL ms, then the channels
-- Reply 1 ended, 0 unknown or over already.
-- Atomic, so that one end is told once. A channel that was not told yet of the beginning is told of
-- neither.
local seen = redis.call('HMGET', KEYS[1], 'state', 'silenced_until_ms')
if not seen[1] or seen[1] == 'resolved' then return 0 end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local text = string.format('%.0f', now)
redis.call('HSET', KEYS[1], 'state', 'resolved', 'resolved_ms', text, 'changed_ms', text, 'detail', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], text, ARGV[1])
for n = 4, #ARGV do
  local untold = redis.call('ZREM', KEYS[3], ARGV[n] .. '|' .. ARGV[1] .. '|firing') == 1
  if not untold and now >= (tonumber(seen[2] or '') or 0) then
    redis.call('ZADD', KEYS[3], text, ARGV[n] .. '|' .. ARGV[1] .. '|resolved')
  end
end
return 1
