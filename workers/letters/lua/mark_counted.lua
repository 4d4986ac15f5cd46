-- Mark the deaths of a batch of events as counted with their causes.
-- KEYS  the records (HASH)
-- ARGV  the ms each died
-- Reply how many were marked.
-- Atomic, so that a record that is trimmed meanwhile is not born again as a stub without a TTL.
local marked = 0
for i = 1, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('HSET', KEYS[i], 'cause_ms', ARGV[i])
    marked = marked + 1
  end
end
return marked
