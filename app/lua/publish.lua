-- Append a batch of events to one stream, each once, whoever asks how often.
-- KEYS  1 stream  2 mark (STRING) of this call
-- ARGV  1 seconds the call is remembered  2 prefix of the marks of event ids  3 seconds they are kept
--       then per event: event id or "", how many values its fields take, the fields and values
-- Reply two texts per event: entry id, and "1" when it was appended now or "0" when it was there.
-- Atomic, so that a client that repeats a call whose reply was lost appends nothing twice, and so that
-- two callers with one event id make one entry. An event id is remembered for a day.
local before = redis.call('GET', KEYS[2])
if before then return cjson.decode(before) end
local replies, i = {}, 4
while i <= #ARGV do
  local event, count = ARGV[i], tonumber(ARGV[i + 1])
  local mark = event ~= '' and ARGV[2] .. event
  local known = mark and redis.call('GET', mark)
  if known then
    replies[#replies + 1] = known
    replies[#replies + 1] = '0'
  else
    local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, i + 2, i + 1 + count))
    if mark then redis.call('SET', mark, id, 'EX', ARGV[3]) end
    replies[#replies + 1] = id
    replies[#replies + 1] = '1'
  end
  i = i + 2 + count
end
redis.call('SET', KEYS[2], cjson.encode(replies), 'EX', ARGV[1])
return replies
