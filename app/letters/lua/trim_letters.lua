-- Forget closed dead letters whose retention has passed; never one that is open or being retried.
-- KEYS  1 dead closed  2 dead open  3 dead retrying (ZSETs)
-- ARGV  1 record prefix  2 payload prefix  3 retention ms  4 letters at most
-- Reply the number of letters taken from the index.
-- Atomic, so that a letter is not forgotten in the moment somebody reopens it.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - tonumber(ARGV[3])), 'LIMIT', 0, tonumber(ARGV[4]))
for _, letter in ipairs(old) do
  redis.call('ZREM', KEYS[1], letter)
  if not redis.call('ZSCORE', KEYS[2], letter) and not redis.call('ZSCORE', KEYS[3], letter) then
    redis.call('DEL', ARGV[1] .. letter, ARGV[2] .. letter)
  end
end
return #old
