-- Bring a dead letter back from an archive file, unless one of its id is here.
-- KEYS  1 record (HASH)  2 payload (STRING)  3 dead open (ZSET)  4 totals (HASH)
-- ARGV  1 id  2 score (ms it died)  3 "1" when a payload follows  4 payload  then fields and values
-- Reply 1 brought back, 0 it is here (it was never removed, or was brought back before).
-- Atomic, so that a file read twice, or by two people, makes each letter once.
local call = redis.call
if call('EXISTS', KEYS[1]) == 1 then return 0 end
local t = call('TIME')
call('HSET', KEYS[1], unpack(ARGV, 5))
call('HSET', KEYS[1], 'state', 'new', 'changed_ms', string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)))
if ARGV[3] == '1' then call('SET', KEYS[2], ARGV[4]) end
call('ZADD', KEYS[3], ARGV[2], ARGV[1])
call('HINCRBY', KEYS[4], 'spilled', -1)
return 1
