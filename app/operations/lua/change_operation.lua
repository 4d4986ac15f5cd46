-- Store fields of an operation, and its next state when it is still in an expected one.
-- KEYS  1 record (HASH)  2 open operations (HASH signature -> id)  3 its lease (STRING)
-- ARGV  1 id  2 lease token, or ""  3 expected states as ",a,b,"  4 next state, or "" to keep it
--       5 open states as ",a,b,"  6 "1": store the fields whatever the state  then fields and values
-- Reply a word: done · state:<state> (state kept) · missing · fenced · taken
-- Atomic, so that the progress of a step is kept although somebody paused or aborted meanwhile, and
-- a pause is never undone by the process that was stepping.
local call = redis.call
local seen = call('HMGET', KEYS[1], 'state', 'signature')
local state, signature = seen[1], seen[2]
if not state then return 'missing' end
if ARGV[2] ~= '' and call('GET', KEYS[3]) ~= ARGV[2] then return 'fenced' end
local function is_in(list, word) return string.find(list, ',' .. word .. ',', 1, true) ~= nil end
local fits = is_in(ARGV[3], state)
local moves = fits and ARGV[4] ~= '' and ARGV[4] ~= state
if moves and is_in(ARGV[5], ARGV[4]) and not is_in(ARGV[5], state) then
  if call('HEXISTS', KEYS[2], signature) == 1 then return 'taken' end
  call('HSET', KEYS[2], signature, ARGV[1])
  call('HSET', KEYS[1], 'finished_at', '')
end
if #ARGV > 6 and (fits or ARGV[6] == '1') then call('HSET', KEYS[1], unpack(ARGV, 7)) end
if not fits then return 'state:' .. state end
if moves then
  call('HSET', KEYS[1], 'state', ARGV[4])
  if not is_in(ARGV[5], ARGV[4]) then
    local t = call('TIME')
    call('HSET', KEYS[1], 'finished_at', string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)))
    if call('HGET', KEYS[2], signature) == ARGV[1] then call('HDEL', KEYS[2], signature) end
  end
end
return 'done'
