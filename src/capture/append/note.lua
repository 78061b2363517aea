#!lua
-- Records a loss that the state has passed already: once, however often it is sent.
--
-- KEYS[1] state  [2] gaps
-- ARGV[1] id of the record: 16 digits
-- ARGV[2] from  [3] to  [4] started_at  [5] ended_at  [6] cause  [7] detail   fields of the record
-- ARGV[8] reason under which the losses are counted   [9] dropped
-- Reply: 1 where the record was written, 0 where it was there already.
local state, gaps, id = KEYS[1], KEYS[2], ARGV[1]
local noted = redis.call('HGET', state, 'notes') or ''
if string.find(noted, id, 1, true) then return 0 end
redis.call('XADD', gaps, 'MAXLEN', '~', 10000, '*', 'from', ARGV[2], 'to', ARGV[3], 'started_at', ARGV[4],
  'ended_at', ARGV[5], 'cause', ARGV[6], 'detail', ARGV[7], 'dropped', ARGV[9])
redis.call('HSET', state, 'notes', string.sub(noted .. id .. ' ', -17 * 128))
local dropped = tonumber(ARGV[9])
if dropped > 0 then
  redis.call('HINCRBY', state, 'dropped:' .. ARGV[8], dropped)
  redis.call('HINCRBY', state, 'received', dropped)
end
return 1
