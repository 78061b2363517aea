#!lua flags=allow-oom
-- Forgets a stream of a route if it is gone. What became of its entries stays counted.
--
-- KEYS  1  streams  set: what the route reads
--       2  cursor   hash of the route
--       3  stream
--       4  cursor   of the stream
--       5  holes    of the stream
--       6  lease    of the stream, only across two servers
--
-- Returns 1 if it is gone, else 0.
if redis.call('EXISTS', KEYS[3]) == 1 then
  return 0
end
local fields = { 'published', 'unheard', 'rejected', 'filtered', 'pos', 'counted', 'stream', 'failing', 'failures',
  'failing_row', 'failing_after', 'failing_error' }
-- The stream's place may be in the route's cursor: open.lua.
local cursor = redis.call('HMGET', KEYS[2], 'stream')[1] == KEYS[3] and KEYS[2] or KEYS[4]
for at = 1, 4 do
  local gone = 'gone_' .. fields[at]
  local its, all = redis.call('HMGET', cursor, fields[at])[1], redis.call('HMGET', KEYS[2], gone)[1]
  redis.call('HSET', KEYS[2], gone, string.format('%.0f', (tonumber(all) or 0) + (tonumber(its) or 0)))
end
redis.call('DEL', unpack(KEYS, 4))
if cursor == KEYS[2] then
  redis.call('HDEL', cursor, unpack(fields))
end
redis.call('SREM', KEYS[1], KEYS[3])
redis.call('HDEL', KEYS[2], 'new:' .. KEYS[3])
return 1
