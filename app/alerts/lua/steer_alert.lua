-- Acknowledge an alert, or silence it for a time.
-- KEYS  1 alert (HASH)
-- ARGV  1 actor  2 note ("": as it is)  3 ms of silence ("": acknowledge)
-- Reply changed · already · missing
-- Atomic, so that an alert that was resolved a moment before is not turned back by a late click.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 'missing' end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local text = string.format('%.0f', now)
local note = ARGV[2] ~= '' and ARGV[2] or redis.call('HGET', KEYS[1], 'note') or ''
if ARGV[3] == '' then
  if state ~= 'firing' then return 'already' end
  redis.call('HSET', KEYS[1], 'state', 'acknowledged', 'actor', ARGV[1], 'note', note, 'changed_ms', text)
else
  local till = string.format('%.0f', now + tonumber(ARGV[3]))
  redis.call('HSET', KEYS[1], 'silenced_until_ms', till, 'actor', ARGV[1], 'note', note, 'changed_ms', text)
end
return 'changed'
