-- Send one notification and remember it for listeners that come back (cache Redis).
-- KEYS  1 replay (STREAM) of the channel  2 channels remembered (ZSET)  3 mark (STRING), only where
--       the notification must be sent once
-- ARGV  1 channel  2 message (a JSON object)  3 entries kept  4 seconds they are kept  5 channels kept
--       6 replay prefix  7 seconds the mark is kept
-- Reply {listeners, id}; {-1, ""} when the mark says that it was sent before.
-- Atomic, so that what is heard is remembered under the same id and nothing falls between the two, and
-- so that a processor killed in between neither loses the message nor repeats it. The message gets
-- its id as first field.
if KEYS[3] and not redis.call('SET', KEYS[3], '1', 'NX', 'EX', ARGV[7]) then return {-1, ''} end
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local id = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[3], '*', 'm', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[4])
local over = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[5])
if over > 0 then
  for _, channel in ipairs(redis.call('ZRANGE', KEYS[2], 0, over - 1)) do
    redis.call('DEL', ARGV[6] .. channel)
  end
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, over - 1)
end
local text = '{"id":"' .. id .. '",' .. string.sub(ARGV[2], 2)
return {redis.call('PUBLISH', ARGV[1], text), id}
