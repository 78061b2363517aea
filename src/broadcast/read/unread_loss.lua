#!lua flags=allow-oom
-- Records once that entries were deleted or trimmed before they were read.
--
-- The cursor's count is how many entries were ever added up to its place.
--
-- KEYS  1  cursor        hash
--       2  dead letters  stream
--       3  stream
-- ARGV  1  counted       the count that the caller expects of the cursor
--       2  missing       how many entries were never read
--       3  after         the last entry that was read before them
--       4  detail        for the operator
--
-- Returns 1 if the count was as expected, else 0: another instance has recorded the loss, or moved the cursor.
local cursor = redis.call('HMGET', KEYS[1], 'counted', 'rejected')
if cursor[1] ~= ARGV[1] then
  return 0
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'stream', KEYS[3],
  'id', ARGV[3], 'reason', 'deleted_unread', 'detail', ARGV[4])
redis.call('XTRIM', KEYS[2], 'MINID', '~', string.format('%.0f', (redis.call('TIME')[1] - 2592000) * 1000))
redis.call('HSET', KEYS[1], 'counted', string.format('%.0f', tonumber(ARGV[1]) + tonumber(ARGV[2])),
  'rejected', string.format('%.0f', (tonumber(cursor[2]) or 0) + 1))
return 1
