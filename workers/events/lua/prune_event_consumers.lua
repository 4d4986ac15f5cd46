-- Delete consumers of a group that own nothing and have been silent for long.
-- KEYS  1 stream
-- ARGV  1 group  2 idle ms after which a consumer is gone  3 a consumer to delete however idle, or ""
-- Reply the names deleted.
-- Atomic, so that a consumer that reads an entry at this moment is not deleted together with it:
-- XGROUP DELCONSUMER would drop its pending entries without a trace.
local gone = {}
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local facts = {}
  for i = 1, #row, 2 do facts[row[i]] = row[i + 1] end
  if facts['pending'] == 0 and (facts['idle'] >= tonumber(ARGV[2]) or facts['name'] == ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], facts['name'])
    gone[#gone + 1] = facts['name']
  end
end
return gone
