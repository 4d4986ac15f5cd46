-- Append one line to the audit, chained to the line before it.
-- KEYS  1 audit (STREAM)  2 mark (STRING), only where the line must be written once
-- ARGV  1 body (canonical JSON)  2 lines kept  3 seconds the mark is kept
-- Reply {entry id, hash}; {"", ""} when the mark says that the line was written before.
-- Each entry: n (counts up), at (ms), prev (hash of the line before), body, and
-- hash = sha1(prev "\n" n "\n" at "\n" body). Atomic, so that two writers cannot chain to one line.
-- When the stream's last id is not the last line's, somebody removed the end: the new line's prev says so and can
-- never match, so that the gap stays visible.
if KEYS[2] and not redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[3]) then return {'', ''} end
local t = redis.call('TIME')
local at = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local prev, n = string.rep('0', 40), 0
if redis.call('EXISTS', KEYS[1]) == 1 then
  local generated = ''
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then generated = info[i + 1] end
  end
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  if last then
    local fields = {}
    for i = 1, #last[2], 2 do fields[last[2][i]] = last[2][i + 1] end
    prev, n = fields.hash or 'unreadable', tonumber(fields.n or '0') or 0
  end
  if not last or last[1] ~= generated then prev = 'removed:' .. generated end
end
n = string.format('%.0f', n + 1)
local hash = redis.sha1hex(prev .. '\n' .. n .. '\n' .. at .. '\n' .. ARGV[1])
local id = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], '*',
                      'n', n, 'at', at, 'prev', prev, 'body', ARGV[1], 'hash', hash)
return {id, hash}
