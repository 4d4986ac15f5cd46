-- Take over entries that nobody works on.
-- KEYS  1 stream
-- ARGV  1 group  2 consumer  3 idle ms an entry must have  4 consumer that must own them, or ""
--       then entry ids
-- Reply one row per entry taken: id, how often it was delivered before, and its fields as a flat
-- list; false in their place where the entry was deleted (the caller settles it).
-- Atomic, so that an entry another processor took a moment ago is left to it. The delivery is not
-- counted here but when it begins (begin_event). 7.0 drops a deleted entry from the pending list by
-- itself when it is claimed, 6.2 keeps it: so the stream is asked first.
local taken = {}
for i = 5, #ARGV do
  local id = ARGV[i]
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if row and row[3] >= tonumber(ARGV[3]) and (ARGV[4] == '' or row[2] == ARGV[4]) then
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if entry then
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
      taken[#taken + 1] = {id, row[4], entry[2]}
    else
      taken[#taken + 1] = {id, row[4], false}
    end
  end
end
return taken
