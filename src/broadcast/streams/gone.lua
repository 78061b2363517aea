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
local counts = { 'published', 'unheard', 'rejected', 'filtered' }
local its, all = redis.call('HMGET', KEYS[4], unpack(counts)), redis.call('HMGET', KEYS[2], unpack(counts))
for at, name in ipairs(counts) do
  redis.call('HSET', KEYS[2], name, string.format('%.0f', (tonumber(all[at]) or 0) + (tonumber(its[at]) or 0)))
end
redis.call('DEL', unpack(KEYS, 4))
redis.call('SREM', KEYS[1], KEYS[3])
redis.call('HDEL', KEYS[2], 'new:' .. KEYS[3])
return 1
