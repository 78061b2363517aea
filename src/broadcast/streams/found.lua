#!lua flags=allow-oom
-- Adds streams that match a route's pattern to those that the route reads.
--
-- KEYS  1  streams   set: what the route reads
--       2  cursor    hash of the route: what became of the entries of streams that are gone, when the first complete
--                    look was, and which streams came after it. A stream has a cursor of its own
-- ARGV  1  most      how many streams are read at most
--       2  complete  '1' if every stream that there is stands in the set or below
--       3  looked    when the first complete look was, as the caller remembers it, or ''
--       …  names of streams
--
-- Returns { when the first complete look was or '', published, unheard, dead letters, filtered,
--           then of each stream: name, '1' if it came later or '' }.
local streams = redis.call('SMEMBERS', KEYS[1])
local reads = {}
for _, name in ipairs(streams) do
  reads[name] = true
end
local cursor = redis.call('HMGET', KEYS[2], 'looked', 'published', 'unheard', 'rejected', 'filtered')
local looked = cursor[1]
if not looked and ARGV[3] ~= '' then
  -- The cursor was lost while the caller ran. Streams that come now are later than its first look all the same.
  looked = ARGV[3]
  redis.call('HSET', KEYS[2], 'format', '1', 'looked', looked)
end
for at = 4, #ARGV do
  local name = ARGV[at]
  if not reads[name] and #streams < tonumber(ARGV[1]) then
    redis.call('SADD', KEYS[1], name)
    streams[#streams + 1] = name
    if looked then
      redis.call('HSET', KEYS[2], 'new:' .. name, '1')
    end
  end
end
if ARGV[2] == '1' and not looked then
  local time = redis.call('TIME')
  looked = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('HSET', KEYS[2], 'format', '1', 'looked', looked)
end

local reply = { looked or '' }
for at = 2, 5 do
  reply[at] = tonumber(cursor[at]) or 0
end
for _, name in ipairs(streams) do
  reply[#reply + 1] = name
  reply[#reply + 1] = redis.call('HMGET', KEYS[2], 'new:' .. name)[1] or ''
end
return reply
