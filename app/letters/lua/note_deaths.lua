-- Count deaths per cause, each once, and say how the causes stand.
-- KEYS  1 causes (ZSET)  2 deaths of events counted (ZSET)
-- ARGV  1 cause prefix  2 counts prefix  3 causes kept  4 counted deaths kept  5 hours kept
--       6 days kept  7 epoch hour now  8 hours of planned retries wanted
--       then per death 8: fingerprint, letter id, source, died ms, record key (jobs; "" for events,
--       whose records lie on another Redis), function or type, error type, error
-- Reply per death {1 counted now or 0, state, regressions}, and with the first death of each cause the
-- retries planned per hour from now on.
-- Atomic, so that a processor that dies between counting and marking counts no death twice, and so
-- that a cause turns from resolved to regressed exactly once.
local call = redis.call
local function add(list, text)  -- a line of its own, at most 20
  if text == '' or string.find('\n' .. list .. '\n', '\n' .. text .. '\n', 1, true) then return list end
  local _, lines = string.gsub(list, '\n', '')
  if list ~= '' and lines >= 19 then return list end
  return list == '' and text or list .. '\n' .. text
end
local function prune(counts, letter, oldest)
  local old = {}
  for _, name in ipairs(call('HKEYS', counts)) do
    local n = tonumber(string.match(name, '^' .. letter .. '(%d+)$') or '')
    if n and n < oldest then old[#old + 1] = name end
  end
  if #old > 0 then call('HDEL', counts, unpack(old)) end
end
local hour = tonumber(ARGV[7])
local replies, told, hours = {}, {}, {}
for n = 0, tonumber(ARGV[8]) - 1 do hours[#hours + 1] = 'r' .. string.format('%.0f', hour + n) end
for a = 9, #ARGV, 8 do
  local fingerprint, died, record = ARGV[a], tonumber(ARGV[a + 3]), ARGV[a + 4]
  local key, counts = ARGV[1] .. fingerprint, ARGV[2] .. fingerprint
  local fresh
  if record ~= '' then
    local marks = call('HMGET', record, 'cause_ms', 'state')
    fresh = marks[2] and marks[1] ~= ARGV[a + 3]
    if fresh then call('HSET', record, 'cause_ms', ARGV[a + 3]) end
  else
    fresh = call('ZADD', KEYS[2], 'NX', ARGV[a + 3], ARGV[a + 2] .. '/' .. ARGV[a + 1] .. '@' .. ARGV[a + 3]) == 1
  end
  local seen = call('HMGET', key, 'state', 'resolved_ms', 'first_ms', 'last_ms', 'functions', 'sources', 'regressions')
  local state = seen[1]
  if not state then
    state = 'new'
    call('HSET', key, 'fingerprint', fingerprint, 'state', state, 'first_ms', ARGV[a + 3], 'last_ms', ARGV[a + 3],
         'changed_ms', ARGV[a + 3], 'error_type', ARGV[a + 6], 'error', ARGV[a + 7],
         'functions', ARGV[a + 5], 'sources', ARGV[a + 2])
    call('ZADD', KEYS[1], ARGV[a + 3], fingerprint)
  end
  if fresh then
    call('HINCRBY', key, 'count', 1)
    local last = tonumber(seen[4] or '') or 0
    if died >= last then
      call('HSET', key, 'last_ms', ARGV[a + 3], 'error_type', ARGV[a + 6], 'error', ARGV[a + 7])
      call('ZADD', KEYS[1], ARGV[a + 3], fingerprint)
    end
    if seen[1] then
      if died < (tonumber(seen[3] or '') or died) then call('HSET', key, 'first_ms', ARGV[a + 3]) end
      local functions, sources = add(seen[5] or '', ARGV[a + 5]), add(seen[6] or '', ARGV[a + 2])
      if functions ~= seen[5] or sources ~= seen[6] then
        call('HSET', key, 'functions', functions, 'sources', sources)
      end
    end
    if state == 'resolved' and died > (tonumber(seen[2] or '') or 0) then
      state = 'regressed'
      call('HSET', key, 'state', state, 'changed_ms', ARGV[a + 3])
      seen[7] = tostring(call('HINCRBY', key, 'regressions', 1))
    end
    local h, d = math.floor(died / 3600000), math.floor(died / 86400000)
    if h > hour - tonumber(ARGV[5]) and call('HINCRBY', counts, 'h' .. string.format('%.0f', h), 1) == 1 then
      prune(counts, 'h', hour - tonumber(ARGV[5]))
      prune(counts, 'r', hour)
    end
    if d > math.floor(hour / 24) - tonumber(ARGV[6]) and call('HINCRBY', counts, 'd' .. string.format('%.0f', d), 1) == 1 then
      prune(counts, 'd', math.floor(hour / 24) - tonumber(ARGV[6]))
    end
  end
  local row = {fresh and 1 or 0, state, tonumber(seen[7] or '') or 0}
  if not told[fingerprint] then
    told[fingerprint] = true
    for _, n in ipairs(call('HMGET', counts, unpack(hours))) do row[#row + 1] = tonumber(n or '') or 0 end
  end
  replies[#replies + 1] = row
end
call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[4]))
local over = call('ZCARD', KEYS[1]) - tonumber(ARGV[3])
if over > 0 then  -- the oldest go; of them, those a person dealt with last
  local oldest, untouched, touched = call('ZRANGE', KEYS[1], 0, over + 199), {}, {}
  for _, name in ipairs(oldest) do
    local into = call('HGET', ARGV[1] .. name, 'actor') and touched or untouched
    into[#into + 1] = name
  end
  for n = 1, over do
    local name = untouched[n] or touched[n - #untouched]
    if name then
      call('ZREM', KEYS[1], name)
      call('DEL', ARGV[1] .. name, ARGV[2] .. name)
    end
  end
end
return replies
