-- Count the delivery of an adopted entry, in the moment its handlers are about to run.
-- KEYS  1 stream
-- ARGV  1 group  2 consumer  3 entry id
-- Reply how often it was delivered, this time included; 0 when it is no longer this consumer's.
-- Atomic, so that an entry another processor took over is neither counted nor run here. Counting what
-- begins, not what is claimed, is what keeps innocent entries out of the grave when processors die fast.
local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])[1]
if not row then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'RETRYCOUNT', row[4] + 1, 'JUSTID')
return row[4] + 1
