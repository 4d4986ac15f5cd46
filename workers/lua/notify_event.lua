-- Send the notification that handling an event brings about, once (cache Redis).
-- KEYS  1 mark (STRING) of the effect
-- ARGV  1 seconds the mark is kept  2 channel  3 message
-- Reply the listeners that heard it, or -1 when an earlier delivery sent it.
-- Atomic, so that a processor killed in between neither loses the message nor repeats it.
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) then return -1 end
return redis.call('PUBLISH', ARGV[2], ARGV[3])
