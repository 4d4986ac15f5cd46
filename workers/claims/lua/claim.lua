-- Claim up to ARGV[2] due jobs for one worker and hand them over with payload and past attempts.
-- KEYS  1 queue (ZSET)  2 running (HASH)  3 attempts (HASH)  4 wake (LIST)  5 paused queues (SET)
--       6 arq:abort (ZSET)  7 totals (HASH)
-- ARGV  1 queue name  2 jobs wanted  3 lease ms  4 worker id  5 claim token  6 in-progress prefix
--       7 job prefix  8 retry prefix  9 "1" when the worker runs nothing (may take a quarantined job)
--      10 crashes after which a job runs alone  11 crashes after which it is buried
-- Reply {now ms, next due ms | -1 none | -2 paused, "1" when a quarantined job waits for an idle
--       worker, then per job: id, payload|"", has payload, due ms, attempts, stock tries, aborted}
-- Atomic, so that a due id is leased by one worker only and moves out of the due range in the same
-- moment: its score becomes its lease end, and an orphan falls due by itself. Redis' clock decides.
local call, ARGV, KEYS = redis.call, ARGV, KEYS  -- a global costs a lookup each, and this runs per job
local t = call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local int = function(n) return string.format('%.0f', n) end
local now_text, alone_at, bury_at = int(now), tonumber(ARGV[10]), tonumber(ARGV[11])
if call('SISMEMBER', KEYS[5], ARGV[1]) == 1 then return {int(now), '-2', '0'} end
local wanted, lease = tonumber(ARGV[2]), tonumber(ARGV[3])
local reply = {int(now), '-1', '0'}
local taken, scan, offset = {}, {}, 0
local solo_wait, seen = false, 0
for _ = 1, 5 do  -- ids a stock worker runs stay in the due range: look past them, boundedly
  local due = call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'WITHSCORES', 'LIMIT', offset, wanted)
  if #due == 0 then break end
  seen = seen + #due / 2
  offset = offset + #due / 2
  local ids, locks = {}, {}
  for i = 1, #due, 2 do
    ids[#ids + 1] = due[i]
    locks[#locks + 1] = ARGV[6] .. due[i]
  end
  local locked = call('MGET', unpack(locks))
  local ran = call('HMGET', KEYS[2], unpack(ids))
  local past = call('HMGET', KEYS[3], unpack(ids))
  for i = 1, #ids do
    local id, score = ids[i], tonumber(due[2 * i])
    if #taken >= wanted then break end
    if locked[i] then
      if ran[i] then  -- ours and alive: arq's Job.abort() pulled its score to 1
        call('ZADD', KEYS[1], int(now + math.max(1, call('PTTL', locks[i]))), id)
        offset = offset - 1
      end
    elseif score == 1 and not ran[i] and not call('ZSCORE', KEYS[6], id) then
      -- arq's Job.abort() makes a deferred job due with score 1 and only then asks for the abort
      call('ZADD', KEYS[1], int(now + 100), id)
      offset = offset - 1
    else
      local history, runs, errors, shutdowns, crashes, rest = past[i] or '', 0, 0, 0, 0, ''
      if past[i] then
        local a, b, c, d, e = string.match(history, '^(%d+):(%d+):(%d+):(%d+)|(.*)$')
        runs, errors, shutdowns = tonumber(a or 0), tonumber(b or 0), tonumber(c or 0)
        crashes, rest = tonumber(d or 0), e or ''
      end
      local first_due = math.max(0, score)  -- whoever wrote it: -inf is no time
      if ran[i] then  -- its worker vanished: the lease ran out and nobody finished it
        crashes = crashes + 1
        runs = runs + 1
        first_due = tonumber(string.match(ran[i], '^%d+:(%d+):')) or score
        history = runs .. ':' .. errors .. ':' .. shutdowns .. ':' .. crashes .. '|' .. rest
        call('HSET', KEYS[3], id, history)
        call('HINCRBY', KEYS[7], 'crashed', 1)
        call('HDEL', KEYS[2], id)
      end
      local alone = crashes >= alone_at and crashes < bury_at
      if alone and (ARGV[9] ~= '1' or #taken > 0) then
        solo_wait = true
      else
        taken[#taken + 1] = {id, int(first_due), history, runs + 1}
        if alone then
          wanted = #taken
          break
        end
      end
    end
  end
  if #taken >= wanted or #due / 2 < wanted then break end
end
if solo_wait then reply[3] = '1' end
if #taken == 0 then
  if seen == 0 then call('DEL', KEYS[4]) end  -- stale tokens; a later enqueue pushes after this
  local head = call('ZRANGEBYSCORE', KEYS[1], '(' .. int(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if head[2] then reply[2] = int(tonumber(head[2])) end
  return reply
end
local scores, marks, wants, ids = {}, {}, {}, {}
local ends, token, lock_prefix, job_prefix, retry_prefix = int(now + lease), ARGV[5], ARGV[6], ARGV[7], ARGV[8]
for i = 1, #taken do
  local id = taken[i][1]
  call('SET', lock_prefix .. id, token, 'PX', ARGV[3])
  scores[2 * i - 1] = ends
  scores[2 * i] = id
  marks[2 * i - 1] = id
  marks[2 * i] = now_text .. ':' .. taken[i][2] .. ':' .. taken[i][4] .. ':' .. token
  ids[i] = id
  wants[i] = job_prefix .. id
  wants[#taken + i] = retry_prefix .. id
end
call('ZADD', KEYS[1], unpack(scores))
call('HSET', KEYS[2], unpack(marks))
local values = call('MGET', unpack(wants))
local aborted = call('ZMSCORE', KEYS[6], unpack(ids))
for i = 1, #taken do
  local payload, at = values[i], 7 * i - 3
  reply[at] = ids[i]
  reply[at + 1] = payload or ''
  reply[at + 2] = payload and '1' or '0'
  reply[at + 3] = taken[i][2]
  reply[at + 4] = taken[i][3]
  reply[at + 5] = values[#taken + i] or '0'
  reply[at + 6] = aborted[i] and '1' or '0'
end
return reply
