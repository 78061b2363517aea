#!lua flags=allow-oom
-- Adds matching streams to those that the route reads, and returns where each begins.
--
-- A stream that came after the first complete look is new: all its entries are due. It did if the look before had the
-- same pattern and left no stream out. Otherwise the ids decide, which are times: if the first entry's id is not above
-- the time of the first look, the stream existed already, and begins where the configuration says.
--
-- KEYS  1  streams   set: what the route reads
--       2  cursor    hash of the route: what became of the entries of streams that are gone, when the first complete
--                    look was, the pattern if the last one left no stream out, and which streams came later than the
--                    first. A stream has a cursor of its own
--       …  streams that match
-- ARGV  1  most      how many streams are read at most
--       2  pattern   what the names match
--       3  walked    '' if not all keys were walked; '1' if every stream that matches stands in the set or in KEYS; '0'
--                    if there are more
--       4  looked    when the first complete look was, as the caller remembers it, or ''
--       5  whole     the pattern of the last look if it left no stream out, as the caller remembers it, or ''
--
-- Returns { format } if a newer release wrote the cursor, else
-- { looked, whole, published, unheard, dead letters, filtered, then of each stream: name, how it begins }.
-- It begins as 'new' (every entry that was ever added is due), as 'late' (every entry that is there is due; whether
-- others were there before the first look is not known), or as '' (where the configuration says).
local format = redis.call('HMGET', KEYS[2], 'format')[1] or '1'
if format ~= '1' then
  return { format }
end
local streams = redis.call('SMEMBERS', KEYS[1])
local reads = {}
for _, name in ipairs(streams) do
  reads[name] = true
end
local cursor = redis.call('HMGET', KEYS[2], 'gone_published', 'gone_unheard', 'gone_rejected', 'gone_filtered', 'looked',
  'whole')
local looked, whole = cursor[5], cursor[6] or ''
if not looked and ARGV[4] ~= '' then
  -- The cursor was lost while the caller ran. Streams that come now are later than its first look all the same.
  looked, whole = ARGV[4], ARGV[5]
  redis.call('HSET', KEYS[2], 'format', '1', 'looked', looked, 'whole', whole)
end

local function begins(name)
  if not looked then
    return ''
  elseif whole == ARGV[2] then
    return 'new'
  end
  -- The call fails if the stream is deleted again. It is new once it comes back.
  local flat, about = redis.pcall('XINFO', 'STREAM', name), {}
  for at = 1, #flat, 2 do
    about[flat[at]] = flat[at + 1]
  end
  local first = about['first-entry'] and about['first-entry'][1] or about['last-generated-id']
  local time = first and tonumber(string.match(first, '^(%d+)-'))
  return time and time <= tonumber(looked) and '' or 'late'
end

local left_out = false
for at = 3, #KEYS do
  local name = KEYS[at]
  if not reads[name] and #streams < tonumber(ARGV[1]) then
    redis.call('SADD', KEYS[1], name)
    streams[#streams + 1] = name
    local how = begins(name)
    if how ~= '' then
      redis.call('HSET', KEYS[2], 'new:' .. name, how)
    end
  elseif not reads[name] then
    left_out = true
  end
end
if ARGV[3] ~= '' then
  if not looked then
    local time = redis.call('TIME')
    looked = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  end
  whole = ARGV[3] == '1' and not left_out and ARGV[2] or ''
  redis.call('HSET', KEYS[2], 'format', '1', 'looked', looked, 'whole', whole)
end

local reply = { looked or '', whole }
for at = 1, 4 do
  reply[at + 2] = tonumber(cursor[at]) or 0
end
for _, name in ipairs(streams) do
  reply[#reply + 1] = name
  reply[#reply + 1] = redis.call('HMGET', KEYS[2], 'new:' .. name)[1] or ''
end
return reply
