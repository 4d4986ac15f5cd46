-- Record how a batch of runs ended: result, report, counters, dead letter and removal in one step.
-- KEYS  1 queue (ZSET)  2 running (HASH)  3 attempts (HASH)  4 wake (LIST)  5 totals (HASH)
--       6 runs (STREAM)  7 prefix of the minute counters (HASH; the minute is
--       added by Redis' clock)  8 dead open  9 dead retrying  10 dead closed (ZSETs)
--      11 arq:abort (ZSET)
-- ARGV  1 in-progress prefix  2 job prefix  3 result prefix  4 retry prefix  5 dead record prefix
--       6 dead payload prefix  7 cap of the runs stream  8 vault prefix (payload copies)
--       then per run, 13 values: id, token, kind (C complete, D dead, A aborted, R retry, S shutdown,
--       L laid back), result, result TTL ms (0 none, -1 for ever), report, function, wait bucket, run
--       bucket, delay ms, attempts, letter (D and A: JSON object of the record's fields; C:
--       JSON list of the next jobs; else ""), end-to-end bucket
-- Reply one integer per run: 1 recorded, 0 refused because the lease is lost, 2 recorded, but a next job
--       could not be placed because its queue's key is something else, or too many parcels wait.
-- Atomic and fenced: nothing of a run whose lease went to another worker is written, and a job never
-- leaves the queue without its result, report, count and (when it died) its raw payload being kept. Next
-- jobs are made here, so that each is made once, and only when the job before it has ended well.
local call, ARGV, KEYS = redis.call, ARGV, KEYS  -- globals cost a lookup each, and this runs per job
local t = call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local int = function(n) return string.format('%.0f', n) end
local WIDTH, FIRST = 13, 9
local ids, locks = {}, {}
for i = FIRST, #ARGV, WIDTH do
  ids[#ids + 1] = ARGV[i]
  locks[#locks + 1] = ARGV[1] .. ARGV[i]
end
local marks = call('HMGET', KEYS[2], unpack(ids))
local tokens = call('MGET', unpack(locks))
local outcome = {C = 'complete', D = 'dead', A = 'aborted', R = 'retry', S = 'shutdown'}
local total = {C = 'complete', D = 'dead', A = 'aborted', R = 'retried', S = 'shutdown'}
local replies, gone, unlock, drop, scores, counts, minute, put = {}, {}, {}, {}, {}, {}, {}, {}
local function follow(text)  -- the next jobs of a complete run
  local placed = 1
  for _, job in ipairs(cjson.decode(text)) do
    local due = now + job.delay
    if job.parcel then  -- for another server: written down here, carried there
      if call('HLEN', job.parcel) >= 110000 then
        placed = 2
      else
        call('HSET', job.parcel, job.queue .. '/' .. job.id,
             cjson.encode({queue = job.queue, id = job.id, due = due, ttl = job.ttl, payload = job.payload}))
      end
    elseif call('EXISTS', ARGV[3] .. job.id) == 0
       and call('SET', ARGV[2] .. job.id, job.payload, 'NX', 'PX', int(job.ttl + job.delay)) then
      local added = redis.pcall('ZADD', job.queue, int(due), job.id)
      if type(added) == 'table' and added.err then
        call('DEL', ARGV[2] .. job.id)
        placed = 2
      else
        call('HINCRBY', job.totals, 'accepted', 1)
        local counts_of = (string.gsub(job.totals, 'totals$', 'minute:')) .. int(math.floor(now / 60000))
        call('HINCRBY', counts_of, '|a|accepted', 1)
        call('EXPIRE', counts_of, 7200)
        call('SADD', job.queues, job.queue)
        call('LPUSH', job.wake, '1')
        call('LTRIM', job.wake, 0, 15)
      end
    end
  end
  return placed
end
local function count(into, field) into[field] = (into[field] or 0) + 1 end
-- Keep the payload with the letter: as it lies there, or the copy made before it expired.
local function keep(id, kept)
  if call('COPY', ARGV[2] .. id, kept, 'REPLACE') == 0 then
    call('COPY', ARGV[8] .. id, kept, 'REPLACE')
  end
  call('PERSIST', kept)
end
local function describe(record, letter, encoded, fixed)
  for k, v in pairs(cjson.decode(encoded)) do
    fixed[#fixed + 1] = k
    fixed[#fixed + 1] = v
  end
  call('HSET', record, 'id', letter, 'died_ms', int(now), 'changed_ms', int(now), unpack(fixed))
end
for n = 1, #ids do
  local a = FIRST + (n - 1) * WIDTH
  local id, token, kind = ids[n], ARGV[a + 1], ARGV[a + 2]
  local mine = marks[n] and string.sub(marks[n], -1 - #token) == ':' .. token
  if not mine or (tokens[n] and tokens[n] ~= token) then
    replies[n] = 0
  else
    replies[n] = 1
    gone[#gone + 1] = id
    unlock[#unlock + 1] = locks[n]
    if kind ~= 'L' then
      call('XADD', KEYS[6], '*', 'r', ARGV[a + 5])
      count(counts, total[kind])
      local name = ARGV[a + 6]
      count(minute, name .. '|o|' .. outcome[kind])
      if ARGV[a + 7] ~= '' then count(minute, name .. '|w|' .. ARGV[a + 7]) end
      if ARGV[a + 8] ~= '' then count(minute, name .. '|r|' .. ARGV[a + 8]) end
      if ARGV[a + 12] ~= '' then count(minute, name .. '|e|' .. ARGV[a + 12]) end
    end
    if kind == 'R' or kind == 'S' or kind == 'L' then
      local delay = tonumber(ARGV[a + 9])
      scores[#scores + 1] = int(now + delay)
      scores[#scores + 1] = id
      put[#put + 1] = id
      put[#put + 1] = ARGV[a + 10]
      if kind == 'R' then count(counts, 'failed') end
      local ttl = call('PTTL', ARGV[2] .. id)
      if ttl > 0 and ttl < delay + 86400000 then  -- a long retry must not outlive its payload
        call('PEXPIRE', ARGV[2] .. id, int(delay + 86400000))
      end
    else
      drop[#drop + 1] = id
      local ttl = ARGV[a + 4]
      if ARGV[a + 3] ~= '' and ttl ~= '0' then
        if ttl == '-1' then call('SET', ARGV[3] .. id, ARGV[a + 3])
        else call('SET', ARGV[3] .. id, ARGV[a + 3], 'PX', ttl) end
      end
      local root = string.find(id, '~r', 1, true) and string.match(id, '^(.*)~r%d+$')
      if kind == 'D' then
        count(counts, 'failed')
        local letter = root or id
        local record, kept = ARGV[5] .. letter, ARGV[6] .. letter
        if root and call('EXISTS', record) == 1 then
          call('COPY', ARGV[2] .. id, kept)
        else
          call('DEL', record)
          keep(id, kept)
        end
        call('PERSIST', kept)
        call('PERSIST', record)
        describe(record, letter, ARGV[a + 11], {'state', 'new', 'decision', '', 'decision_reason', ''})
        call('ZADD', KEYS[8], int(now), letter)
        call('ZREM', KEYS[9], letter)
        call('ZREM', KEYS[10], letter)
      elseif root and call('ZREM', KEYS[9], root) == 1 then
        local state = kind == 'C' and 'resolved' or 'new'
        call('HSET', ARGV[5] .. root, 'state', state, 'changed_ms', int(now))
        if kind == 'C' then
          call('ZADD', KEYS[10], int(now), root)
          count(counts, 'resolved')
        else
          call('ZADD', KEYS[8], int(now), root)
        end
      elseif kind == 'A' and ARGV[a + 11] ~= '' then  -- on purpose: a closed letter, which can be reopened
        local record = ARGV[5] .. id
        if not call('ZSCORE', KEYS[8], id) and not call('ZSCORE', KEYS[9], id) then
          call('DEL', record)
          keep(id, ARGV[6] .. id)
          describe(record, id, ARGV[a + 11], {'state', 'discarded', 'decision', 'ABORT', 'decision_reason', 'asked for'})
          call('ZADD', KEYS[10], int(now), id)
        end
      end
      if kind == 'C' and ARGV[a + 11] ~= '' then replies[n] = follow(ARGV[a + 11]) end
      unlock[#unlock + 1] = ARGV[2] .. id
      unlock[#unlock + 1] = ARGV[4] .. id
      unlock[#unlock + 1] = ARGV[8] .. id
    end
  end
end
if #gone == 0 then return replies end
call('XTRIM', KEYS[6], 'MAXLEN', '~', ARGV[7])
call('DEL', unpack(unlock))
call('HDEL', KEYS[2], unpack(gone))
if #drop > 0 then
  call('ZREM', KEYS[1], unpack(drop))
  call('HDEL', KEYS[3], unpack(drop))
  call('ZREM', KEYS[11], unpack(drop))
end
if #scores > 0 then
  call('ZADD', KEYS[1], unpack(scores))
  call('HSET', KEYS[3], unpack(put))
  call('LPUSH', KEYS[4], '1')  -- a sleeper must learn of the new due time
  call('LTRIM', KEYS[4], 0, 15)
end
for field, n in pairs(counts) do call('HINCRBY', KEYS[5], field, n) end
local minute_key = KEYS[7] .. int(math.floor(now / 60000))
for field, n in pairs(minute) do call('HINCRBY', minute_key, field, n) end
call('EXPIRE', minute_key, 7200)
return replies
