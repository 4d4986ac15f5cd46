-- Change one pending entry on an operator's behalf: release it, acknowledge it unhandled, or delete it.
-- KEYS  1 stream  2 totals (HASH)  3 recent (STREAM)  4 attempts (HASH)  5 dead open  6 dead retrying (ZSETs)
-- ARGV  1 group  2 entry id  3 claim, ack or delete  4 consumer it goes to ("": who has it keeps it)
--       5 cap of the recent stream  6 actor  7 dead record prefix
-- Reply {word, consumer, type}: claimed · acked · deleted · missing (not pending)
-- Atomic, so that an entry settled meanwhile is not settled twice, and so that what was skipped is
-- counted and shown. A claimed entry looks abandoned, so that the next processor takes it at once; its
-- delivery count stays. When the entry was the retry of a dead letter, that letter is open again.
local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1]
if not row then return {'missing', '', ''} end
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
local fields = {}
if entry then
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
end
local kind = string.sub(fields['type'] or '', 1, 128)
if ARGV[3] == 'claim' then
  local to = ARGV[4] ~= '' and ARGV[4] or row[2]
  redis.call('XCLAIM', KEYS[1], ARGV[1], to, 0, ARGV[2], 'IDLE', 86400000, 'RETRYCOUNT', row[4], 'JUSTID')
  return {'claimed', to, kind}
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('HDEL', KEYS[4], ARGV[2])
local word, count = 'acked', 'skipped'
if ARGV[3] == 'delete' then
  redis.call('XDEL', KEYS[1], ARGV[2])
  word, count = 'deleted', 'deleted'
end
redis.call('HINCRBY', KEYS[2], count, 1)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[5], '*', 'id', ARGV[2], 'type', kind,
  'handlers', ARGV[6], 'outcome', count, 'ms', '0', 'correlationId', string.sub(fields['correlationId'] or '', 1, 256))
local letter = fields['redrivenFrom']
if letter and redis.call('ZREM', KEYS[6], letter) == 1 then
  local t = redis.call('TIME')
  local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
  redis.call('HSET', ARGV[7] .. letter, 'state', 'new', 'changed_ms', now)
  redis.call('ZADD', KEYS[5], now, letter)
end
return {word, row[2], kind}
