-- Move the oldest open dead letters towards an archive file, finish that, or take it back.
-- KEYS  1 dead open  2 dead spilling (ZSETs)  3 totals (HASH)
-- ARGV  1 verb: take · gone · back  2 record prefix  3 payload prefix
--       take: 4 open letters allowed  5 letters at most    gone, back: 4… letter ids
-- Reply take: ids that lie in "spilling" now, those of an interrupted call first · gone, back: a count.
-- Atomic, so that a letter is in exactly one of open and spilling. One that spills can be neither
-- retried nor closed, so what is written to the file stays true until it is removed here.
local call = redis.call
local t = call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
if ARGV[1] == 'take' then
  local most = tonumber(ARGV[5])
  local ids = call('ZRANGE', KEYS[2], 0, most - 1)
  if #ids > 0 then return ids end
  local excess = math.min(most, call('ZCARD', KEYS[1]) - tonumber(ARGV[4]))
  if excess <= 0 then return {} end
  local old = call('ZRANGE', KEYS[1], 0, excess - 1, 'WITHSCORES')
  for i = 1, #old, 2 do
    local record = ARGV[2] .. old[i]
    call('ZREM', KEYS[1], old[i])
    if call('HGET', record, 'state') == 'new' then
      call('HSET', record, 'state', 'spilled', 'changed_ms', now)
      call('ZADD', KEYS[2], old[i + 1], old[i])
      ids[#ids + 1] = old[i]
    end
  end
  return ids
end
local count = 0
for i = 4, #ARGV do
  local id = ARGV[i]
  local record = ARGV[2] .. id
  local score = call('ZSCORE', KEYS[2], id)
  if score then
    call('ZREM', KEYS[2], id)
    count = count + 1
    if ARGV[1] == 'gone' then
      call('DEL', record, ARGV[3] .. id)
    else
      call('HSET', record, 'state', 'new', 'changed_ms', now)
      call('ZADD', KEYS[1], score, id)
    end
  end
end
if ARGV[1] == 'gone' and count > 0 then call('HINCRBY', KEYS[3], 'spilled', count) end
return count
