#!lua flags=allow-oom
-- Records once that entries were deleted or trimmed before they were read.
--
-- The cursor's count is how many entries were ever added up to its place.
--
-- KEYS  1  cursor        hash
--       2  dead letters  stream
--       3  stream
-- ARGV  1  place         the id that the caller expects of the cursor
--       2  counted       the count that the caller expects of it, '' if it has none
--       3  raised        the count with the lost entries
--       4  after         the last entry that was read before them
--       5  detail        for the operator
--       6  up to         the last id of a deleted stream, '' if the stream was not deleted
--       7  known         the last id of the deleted stream that the caller knows to be recorded, '' if none
--
-- Returns { 1 } if all of it was as expected, else { 0, cursor, its count, last id and count of the deleted stream that
-- was recorded last }: another instance has moved the cursor ('' if there is none) or recorded the loss. The count of a
-- new stream says nothing of the old one, so a deleted stream is recorded apart.
local cursor = redis.call('HMGET', KEYS[1], 'pos', 'counted', 'rejected', 'deleted_up_to', 'deleted_counted')
local known = ARGV[6] == '' or (cursor[4] or '') == ARGV[7]
if cursor[1] ~= ARGV[1] or (cursor[2] or '') ~= ARGV[2] or not known then
  return { 0, cursor[1] or '', cursor[2] or '', cursor[4] or '', cursor[5] or '' }
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'stream', KEYS[3],
  'id', ARGV[4], 'reason', 'deleted_unread', 'detail', ARGV[5])
redis.call('XTRIM', KEYS[2], 'MINID', '~', string.format('%.0f', (redis.call('TIME')[1] - 2592000) * 1000))
redis.call('HSET', KEYS[1], 'counted', ARGV[3], 'rejected', string.format('%.0f', (tonumber(cursor[3]) or 0) + 1))
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'deleted_up_to', ARGV[6], 'deleted_counted', ARGV[3])
end
return { 1 }
