-- Keep the entries a processor holds from being taken as orphans, or give them back.
-- KEYS  1 stream
-- ARGV  1 group  2 consumer  3 "hold", "release" or "return"  then entry ids
-- Reply the ids that are no longer this consumer's.
-- Atomic, so that an entry another processor took over a moment ago is never pulled back. Holding
-- resets the idle time; releasing makes the entry look abandoned and its delivery free of charge, so
-- that a shutdown is not counted as a crash; returning is for entries whose delivery was not counted
-- yet. JUSTID leaves the delivery count alone.
local lost = {}
for i = 4, #ARGV do
  local id = ARGV[i]
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])[1]
  if not row then
    lost[#lost + 1] = id
  elseif ARGV[3] == 'hold' then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
  else
    local deliveries = row[4]
    if ARGV[3] == 'release' then deliveries = math.max(0, deliveries - 1) end
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'IDLE', 86400000,
      'RETRYCOUNT', deliveries, 'JUSTID')
  end
end
return lost
