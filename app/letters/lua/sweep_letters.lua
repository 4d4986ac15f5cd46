-- Walk the dead letters of one source from a cursor on, by the ms they changed, and act on those that match.
-- KEYS  1 index walked (ZSET)  2 journal of the operation (HASH; any key when ARGV[2] is "")
--       3 dead retrying  4 dead closed (ZSETs)  5 queue (ZSET) or stream  6 totals (HASH)
--       7 wake (LIST)  8 registry of queues (SET)
-- ARGV  1 verb: find (only look) · retry_job · retry_event · discarded · archived
--       2 operation id, or "" (find)  3 act on at most  4 look at at most  5 cursor to begin after:
--       "<score> <letter id>" or ""  6 lowest score  7 highest score  8 "1": from the newest on (find)
--       9 name  10 fingerprint  11 error type  12 text in error, id or name, lower case  13 state
--         ("" each: any)
--      14 record prefix  15 payload prefix  16 job-key prefix  17 source
--      18 actor  19 decision  20 its reason  21 done 22 skipped 23 failed so far (a lost journal)
--      24 "1": note the ids as canaries
-- Reply {cursor, done, skipped, failed, "1" at the end of the walk, then the ids a find matched};
-- counts of an operation are those of its whole life, of a find those of this call.
-- Atomic: a letter changes together with its job or entry, its index and the counters. The cursor and
-- the counts are kept in the same step, so that a caller who was killed and asks again goes on behind
-- what was done; and a letter carries the operation's id, so that none is acted on twice by one. The
-- payload of a retry has no TTL: it goes with its job, or when its letter is reopened (reopen_letters).
local call, ARGV, KEYS = redis.call, ARGV, KEYS  -- globals cost a lookup each, and this runs per letter
local verb, op = ARGV[1], ARGV[2]
local most, looks = tonumber(ARGV[3]), tonumber(ARGV[4])
local cursor, low, high, newest = ARGV[5], ARGV[6], ARGV[7], ARGV[8] == '1'
local name, fingerprint, kind, text, wanted = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local done, skipped, failed = tonumber(ARGV[21]), tonumber(ARGV[22]), tonumber(ARGV[23])
local int = function(n) return string.format('%.0f', n) end
if op ~= '' then
  local kept = call('HMGET', KEYS[2], 'cursor', 'done', 'skipped', 'failed', 'finished')
  if kept[1] then
    cursor, done, skipped, failed = kept[1], tonumber(kept[2]), tonumber(kept[3]), tonumber(kept[4])
    if kept[5] == '1' then return {cursor, done, skipped, failed, '1'} end
  end
end
local t = call('TIME')
local now = int(t[1] * 1000 + math.floor(t[2] / 1000))

-- where the walk goes on: behind the cursor's letter, or at its ms again when that letter is gone
local start
if cursor == '' then
  if newest then start = call('ZCOUNT', KEYS[1], '(' .. high, '+inf')
  else start = call('ZCOUNT', KEYS[1], '-inf', '(' .. low) end
else
  local cut = string.find(cursor, ' ', 1, true)
  local score, letter = string.sub(cursor, 1, cut - 1), string.sub(cursor, cut + 1)
  if call('ZSCORE', KEYS[1], letter) == score then
    start = call(newest and 'ZREVRANK' or 'ZRANK', KEYS[1], letter) + 1
  elseif newest then start = call('ZCOUNT', KEYS[1], '(' .. score, '+inf')
  else start = call('ZCOUNT', KEYS[1], '-inf', '(' .. score) end
end
local rows = call(newest and 'ZREVRANGE' or 'ZRANGE', KEYS[1], start, start + looks - 1, 'WITHSCORES')

local top, bottom = tonumber(high), tonumber(low)
local ids, gone, jobs, marks, finished = {}, {}, {}, {}, #rows < 2 * looks
local records, payloads, job_keys = ARGV[14], ARGV[15], ARGV[16]
local actor, decision, reason = ARGV[18], ARGV[19], ARGV[20]
local filters = name ~= '' or fingerprint ~= '' or kind ~= '' or text ~= '' or wanted ~= ''
local lineage = '{"at_ms":' .. now .. ',"actor":' .. cjson.encode(actor) .. ',"operation":' .. cjson.encode(op) .. '}'
local function matches(f)
  return (name == '' or f[4] == name) and (fingerprint == '' or f[5] == fingerprint)
    and (kind == '' or f[6] == kind) and (wanted == '' or f[1] == wanted)
    and (text == '' or string.find(string.lower((f[7] or '') .. '\n' .. f[8] .. '\n' .. (f[4] or '')), text, 1, true))
end

local bytes = 0
local held, held_to = {}, 0
local function payload_of(i)  -- read ahead where every letter walked is likely wanted
  if i > held_to then
    local names = {}
    held_to = filters and i or math.min(i + 18, #rows - 1)
    for n = i, held_to, 2 do names[#names + 1] = payloads .. rows[n] end
    for n, payload in ipairs(call('MGET', unpack(names))) do held[i + 2 * (n - 1)] = payload end
  end
  return held[i]
end

local function retry_job(letter, record, redrives, payload)
  if not payload then return nil end
  local n = int(redrives + 1)
  local id = letter .. '~r' .. n
  call('SET', job_keys .. id, payload)
  bytes = bytes + #payload
  jobs[#jobs + 1] = now
  jobs[#jobs + 1] = id
  call('HSET', record, 'state', 'retrying', 'redrives', n, 'changed_ms', now, 'actor', actor,
       'decision', decision, 'decision_reason', reason, 'operation', op, 'redrive:' .. n, lineage)
  return id
end

local function retry_event(letter, record, redrives, kept)
  if not kept then return nil end
  bytes = bytes + #kept
  local read, value = pcall(cjson.decode, kept)
  if read and type(value) == 'table' and type(value.raw) == 'string' then
    read, value = pcall(cjson.decode, value.raw)
  elseif read and type(value) == 'table' and type(value.raw) == 'table' then
    value = value.raw
  end
  if not read or type(value) ~= 'table' then return nil end
  local fields = {}
  for field, content in pairs(value) do
    if type(field) ~= 'string' or type(content) ~= 'string' then return nil end
    if field ~= 'redrivenFrom' then
      fields[#fields + 1] = field
      fields[#fields + 1] = content
    end
  end
  if #fields == 0 or #fields > 2000 then return nil end  -- redrive.MAX_FIELDS: unpack() would raise
  fields[#fields + 1] = 'redrivenFrom'
  fields[#fields + 1] = letter
  local entry = call('XADD', KEYS[5], '*', unpack(fields))
  local n = int(redrives + 1)
  call('HSET', record, 'state', 'retrying', 'redrives', n, 'retry_id', entry, 'changed_ms', now,
       'actor', actor, 'decision', decision, 'decision_reason', reason, 'operation', op,
       'redrive:' .. n, lineage)
  return entry
end

local acted, walked = 0, 0
local function forget(record, redrives)  -- the last 100 redrives are told
  if redrives > 99 then call('HDEL', record, 'redrive:' .. int(redrives - 99)) end
end
for i = 1, #rows, 2 do
  local letter, score = rows[i], rows[i + 1]
  local at = tonumber(score)
  if (newest and at < bottom) or (not newest and at > top) then
    finished = true
    break
  end
  if acted >= most or bytes > 1000000 then  -- large payloads: fewer in one call
    finished = false
    break
  end
  walked = walked + 1
  local record = records .. letter
  local f
  if filters then
    f = call('HMGET', record, 'state', 'redrives', 'operation', 'name', 'fingerprint', 'error_type', 'error')
    f[8] = letter
  else
    f = call('HMGET', record, 'state', 'redrives', 'operation')
  end
  local stays = true
  if not f[1] or (filters and not matches(f)) then
    skipped = skipped + 1
  elseif op == '' then
    acted = acted + 1
    done = done + 1
    ids[#ids + 1] = letter
  elseif f[1] ~= 'new' or f[3] == op then
    skipped = skipped + 1
  else
    acted = acted + 1
    local id
    local redrives = tonumber(f[2] or '') or 0
    if verb == 'retry_job' then id = retry_job(letter, record, redrives, payload_of(i))
    elseif verb == 'retry_event' then id = retry_event(letter, record, redrives, payload_of(i))
    else
      id = letter
      call('HSET', record, 'state', verb, 'changed_ms', now, 'actor', actor, 'decision', decision,
           'decision_reason', reason, 'operation', op)
    end
    if id then
      forget(record, redrives)
      done, stays = done + 1, false
      ids[#ids + 1] = id
      gone[#gone + 1] = letter
      marks[#marks + 1] = now
      marks[#marks + 1] = letter
    else
      failed = failed + 1
    end
  end
  if stays then cursor = score .. ' ' .. letter end
end

if #gone > 0 then
  if #gone == walked and not newest then call('ZREMRANGEBYRANK', KEYS[1], start, start + walked - 1)
  else call('ZREM', KEYS[1], unpack(gone)) end
  if verb == 'retry_job' or verb == 'retry_event' then
    call('ZADD', KEYS[3], unpack(marks))
    call('HINCRBY', KEYS[6], 'redriven', #gone)
  else
    call('ZADD', KEYS[4], unpack(marks))
    call('HINCRBY', KEYS[6], verb, #gone)
  end
end
if #jobs > 0 then
  call('ZADD', KEYS[5], unpack(jobs))
  call('HINCRBY', KEYS[6], 'accepted', #gone)
  call('SADD', KEYS[8], ARGV[17])
  call('LPUSH', KEYS[7], '1', '1', '1', '1')
  call('LTRIM', KEYS[7], 0, 15)
end
if op ~= '' then
  call('HSET', KEYS[2], 'cursor', cursor, 'done', done, 'skipped', skipped, 'failed', failed, 'finished', finished and '1' or '0')
  call('PEXPIRE', KEYS[2], 604800000)
  if ARGV[24] == '1' and #ids > 0 then
    local flat = {}
    for n = 1, #gone do
      flat[#flat + 1] = 'canary:' .. gone[n]
      flat[#flat + 1] = ids[n]
    end
    call('HSET', KEYS[2], unpack(flat))
  end
end
local reply = {cursor, done, skipped, failed, finished and '1' or '0'}
if op == '' then
  for n = 1, #ids do reply[#reply + 1] = ids[n] end
end
return reply
