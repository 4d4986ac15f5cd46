-- Store a new operation, unless an open one does the same; forget the oldest beyond what is kept.
-- KEYS  1 operations (ZSET)  2 open operations (HASH signature -> id)  3 the new record (HASH)
-- ARGV  1 id  2 signature  3 operations kept  4 open ones at most  5 record prefix
--       then fields and values of the record
-- Reply {word, id}: created · joined (id is the open one's) · full
-- Atomic, so that two presses make one operation, and none is listed without its record.
local call = redis.call
local t = call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local other = call('HGET', KEYS[2], ARGV[2])
if other then return {'joined', other} end
if call('HLEN', KEYS[2]) >= tonumber(ARGV[4]) then return {'full', ''} end
call('HSET', KEYS[3], unpack(ARGV, 6))
call('HSET', KEYS[3], 'created_at', now, 'signature', ARGV[2])
call('HSET', KEYS[2], ARGV[2], ARGV[1])
call('ZADD', KEYS[1], now, ARGV[1])
local excess = call('ZCARD', KEYS[1]) - tonumber(ARGV[3])
if excess > 0 then
  for _, old in ipairs(call('ZRANGE', KEYS[1], 0, 100)) do
    local record = ARGV[5] .. old
    local signature = call('HGET', record, 'signature')
    if excess > 0 and not (signature and call('HGET', KEYS[2], signature) == old) then
      call('DEL', record)
      call('ZREM', KEYS[1], old)
      excess = excess - 1
    end
  end
end
return {'created', ARGV[1]}
