-- Append copies of entries of a stream to its end, each once in one operation.
-- KEYS  1 stream  2 mark (STRING) of the operation: the last entry it copied
-- ARGV  1 seconds the mark is kept  then per copy: id of the original, how many values its fields take,
--       the fields and values
-- Reply how many were appended now.
-- Atomic, so that a runner killed anywhere between this and the store of its cursor appends nothing
-- twice: what is not behind the mark was copied before.
local function parts(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end
local ms, n = parts(redis.call('GET', KEYS[2]) or '0-0')
local appended, i, last = 0, 2, nil
while i <= #ARGV do
  local my_ms, my_n = parts(ARGV[i])
  local count = tonumber(ARGV[i + 1])
  if my_ms > ms or (my_ms == ms and my_n > n) then
    redis.call('XADD', KEYS[1], '*', unpack(ARGV, i + 2, i + 1 + count))
    appended = appended + 1
    last = ARGV[i]
  end
  i = i + 2 + count
end
if last then redis.call('SET', KEYS[2], last, 'EX', ARGV[1]) end
return appended
