#!lua flags=allow-oom
-- Records that entries were deleted or trimmed before they were read, once.
--
-- KEYS  cursor (hash), dead letters (stream), stream
-- ARGV  counted  what the caller believes that the cursor's count is
--       missing  how many entries were never read
--       after    the last entry that was read before them
--       detail   for a person
--
-- The cursor's count says how many entries were ever added up to its place. Returns 1 where it was as believed,
-- and else 0: somebody else has recorded it, or moved the cursor.
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
