-- Look through a stretch of a queue for jobs whose payload names a function or holds a text.
-- KEYS  1 queue (ZSET)
-- ARGV  1 first rank  2 jobs to look at  3 highest score  4 job-key prefix  5 bytes of a payload looked at
--       6 matches wanted  then pairs of texts of which one must be found: 7, 8 function  9, 10 text ("" any)
-- Reply {looked at, id and score of the last one, "1" when the end was reached, then per match: id, score, head}
-- Reads only, so that atomic means no more than one consistent stretch; it holds Redis for the time of
-- ARGV[2] short reads, which the caller bounds. Texts are searched plainly, as bytes.
local call, find = redis.call, string.find
local first, count, high, prefix = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local last_byte, wanted = tonumber(ARGV[5]) - 1, tonumber(ARGV[6])
local function holds(head, id, one, other)
  if one == '' then return true end
  return find(head, one, 1, true) or find(head, other, 1, true) or find(id, one, 1, true)
end
local members = call('ZRANGE', KEYS[1], first, first + count - 1, 'WITHSCORES')
local looked, last, last_score, ended, reply = 0, '', '', '0', {}
for i = 1, #members, 2 do
  local id, score = members[i], members[i + 1]
  if tonumber(score) > high then
    ended = '1'
    break
  end
  looked = looked + 1
  last, last_score = id, score
  local head = call('GETRANGE', prefix .. id, 0, last_byte)
  if holds(head, '', ARGV[7], ARGV[8]) and holds(head, id, ARGV[9], ARGV[10]) then
    reply[#reply + 1] = id
    reply[#reply + 1] = score
    reply[#reply + 1] = head
    wanted = wanted - 1
    if wanted == 0 then break end
  end
end
if #members < 2 * count and looked == #members / 2 then ended = '1' end
return {looked, last, last_score, ended, unpack(reply)}
