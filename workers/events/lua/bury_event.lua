-- Make a dead letter of one event and acknowledge it.
-- KEYS  1 stream  2 totals (HASH)  3 recent (STREAM)  4 attempts (HASH)  5 dead open
--       6 dead retrying  7 dead closed (ZSETs)  8 dead record (HASH)  9 dead payload (STRING)
--      10 handled (HASH)
-- ARGV  1 group  2 entry id  3 letter id  4 reason  5 letter (JSON object of the record's fields)
--       6 cap of the recent stream  7 type  8 handlers  9 ms  10 correlation id
--      11 seconds the dedup of a dead event is kept
--      12 payload of a large entry, encoded by the processor, or ""
-- Reply 1 buried, 0 somebody else settled the entry.
-- Atomic, so that an event leaves the group only when its dead letter is kept, and becomes one letter
-- however many processors give it up. The raw fields are taken from the stream here, so they are kept
-- byte for byte (as JSON under "raw") and never travel; an older letter's payload is not replaced. Only
-- a large entry's come back encoded: at 26 ms a megabyte cjson would hold up everybody else.
local entry = ARGV[12] == '' and redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
local letter = cjson.decode(ARGV[5])  -- before the acknowledgement: an error after it would lose the event
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
if ARGV[12] ~= '' then
  redis.call('SET', KEYS[9], ARGV[12], 'NX')
elseif entry then
  local raw = {}
  for i = 1, #entry[2], 2 do raw[entry[2][i]] = entry[2][i + 1] end
  redis.call('SET', KEYS[9], cjson.encode({raw = raw}), 'NX')
end
redis.call('PERSIST', KEYS[9])
local flat = {'id', ARGV[3], 'state', 'new', 'reason', ARGV[4], 'died_ms', now, 'changed_ms', now,
  'decision', '', 'decision_reason', ''}
for name, value in pairs(letter) do
  flat[#flat + 1] = name
  flat[#flat + 1] = value
end
redis.call('HSET', KEYS[8], unpack(flat))
redis.call('PERSIST', KEYS[8])
redis.call('ZADD', KEYS[5], now, ARGV[3])
redis.call('ZREM', KEYS[6], ARGV[3])
redis.call('ZREM', KEYS[7], ARGV[3])
redis.call('HDEL', KEYS[4], ARGV[2])
redis.call('EXPIRE', KEYS[10], ARGV[11])
redis.call('HINCRBY', KEYS[2], 'dead', 1)
if ARGV[4] == 'malformed' then redis.call('HINCRBY', KEYS[2], 'malformed', 1) end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'id', ARGV[2], 'type', ARGV[7],
  'handlers', ARGV[8], 'outcome', 'dead', 'ms', ARGV[9], 'correlationId', ARGV[10])
return 1
