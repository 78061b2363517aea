#!lua flags=allow-oom
-- Forgets a stream of a route if it is deleted. The totals of its entries stay.
--
-- KEYS  1  streams  set: what the route reads
--       2  cursor   hash of the route
--       3  stream
--       4  cursor   of the stream
--       5  holes    of the stream
--       6  lease    of the stream, only across two servers
--       7  lease    of the route, only across two servers
-- ARGV  1  lasts    how long a lease lasts, in ms
--
-- Returns 1 if it is forgotten, else 0: it is there, or another instance publishes it and first records what it lost.
if redis.call('EXISTS', KEYS[3]) == 1 then
  return 0
end
-- The stream's place may be in the route's cursor: open.lua.
local of_route = redis.call('HMGET', KEYS[2], 'stream')[1] == KEYS[3]
local lease = KEYS[of_route and 7 or 6]
if lease then
  local time = redis.call('TIME')
  local left = (tonumber(redis.call('HMGET', lease, 'until')[1] or '') or 0)
    - (time[1] * 1000 + math.floor(time[2] / 1000))
  -- A lease that would last longer than any is given is from before the server's clock went back.
  if left > 0 and left <= tonumber(ARGV[1]) then
    return 0
  end
end
local fields = { 'published', 'unheard', 'rejected', 'filtered', 'pos', 'counted', 'stream', 'failing', 'failures',
  'failing_row', 'failing_after', 'failing_error', 'passes_after', 'passes_up_to' }
local cursor = of_route and KEYS[2] or KEYS[4]
for at = 1, 4 do
  local gone = 'gone_' .. fields[at]
  local its, all = redis.call('HMGET', cursor, fields[at])[1], redis.call('HMGET', KEYS[2], gone)[1]
  redis.call('HSET', KEYS[2], gone, string.format('%.0f', (tonumber(all) or 0) + (tonumber(its) or 0)))
end
redis.call('DEL', unpack(KEYS, 4, math.min(#KEYS, 6)))
if of_route then
  redis.call('HDEL', KEYS[2], unpack(fields))
end
redis.call('SREM', KEYS[1], KEYS[3])
redis.call('HDEL', KEYS[2], 'new:' .. KEYS[3])
return 1
