-- Append an event that handling another event brings about, once.
-- KEYS  1 stream  2 handled (HASH) of the causing event
-- ARGV  1 name of the effect  2 seconds the dedup is kept  then fields and values of the entry
-- Reply the id of the entry: the new one, or the one appended by an earlier delivery.
-- Atomic, so that a processor killed in between neither loses the entry nor appends it twice.
local before = redis.call('HGET', KEYS[2], ARGV[1])
if before then return before end
local fields = {}
for i = 3, #ARGV do fields[#fields + 1] = ARGV[i] end
local id = redis.call('XADD', KEYS[1], '*', unpack(fields))
redis.call('HSET', KEYS[2], ARGV[1], id)
redis.call('EXPIRE', KEYS[2], ARGV[2])
return id
