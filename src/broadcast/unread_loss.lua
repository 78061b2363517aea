#!lua flags=allow-oom
-- Records once that entries were deleted or trimmed before they were read.
--
-- The cursor's count is how many entries were ever added up to its place, with the count of the stream before
-- (publish/count.rs). A loss of either raises it, so that no other instance records it again. The cursor passes the lost
-- entries, so that no other instance publishes one of them that it read before.
--
-- KEYS  1  cursor        hash
--       2  dead letters  stream
--       3  stream
-- ARGV  1  place         the id that the caller expects of the cursor
--       2  counted       the count that the caller expects of it, '' if it has none
--       3  raised        the count with the lost entries
--       4  after         the last entry that was read before them
--       5  detail        for the operator
--       6  up to         the last lost entry, '' if entries before it may still be published: the caller has read them
--
-- Returns { 1, cursor } if both were as expected, else { 0, cursor, its count }: another instance has moved the cursor ('' if
-- there is none) or recorded the loss.
local cursor = redis.call('HMGET', KEYS[1], 'pos', 'counted', 'rejected')
if cursor[1] ~= ARGV[1] or (cursor[2] or '') ~= ARGV[2] then
  return { 0, cursor[1] or '', cursor[2] or '' }
end
-- Before anything is written: the command fails on a key of another type.
local pos = ARGV[1]
if ARGV[6] ~= '' and #redis.call('XRANGE', KEYS[3], '(' .. pos, ARGV[6], 'COUNT', 1) == 0 then
  pos = ARGV[6]
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'stream', KEYS[3],
  'id', ARGV[4], 'reason', 'deleted_unread', 'detail', ARGV[5])
redis.call('XTRIM', KEYS[2], 'MINID', '~', string.format('%.0f', (redis.call('TIME')[1] - 2592000) * 1000))
redis.call('HSET', KEYS[1], 'pos', pos, 'counted', ARGV[3], 'rejected', string.format('%.0f', (tonumber(cursor[3]) or 0) + 1))
return { 1, pos }
