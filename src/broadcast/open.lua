#!lua flags=allow-oom
-- Finds a route's cursor, or makes it where it is known where to begin.
--
-- KEYS  cursor (hash), stream
-- ARGV  start  '' (not said), 'end', or an id: the cursor's place on a stream that has entries
--
-- Returns {cursor, published, unheard, dead letters, filtered}; the cursor is '' where there is none and the
-- stream has entries, so that somebody must say whether they are to be published.
local cursor = redis.call('HMGET', KEYS[1], 'pos', 'published', 'unheard', 'rejected', 'filtered')
local pos = cursor[1]
if not pos then
  local entries = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
  if #entries == 0 then
    pos = '0-0'
  elseif ARGV[1] == 'end' then
    local about = redis.call('XINFO', 'STREAM', KEYS[2])
    for at = 1, #about, 2 do
      if about[at] == 'last-generated-id' then
        pos = about[at + 1]
      end
    end
  elseif ARGV[1] ~= '' then
    pos = ARGV[1]
  else
    return { '', 0, 0, 0, 0 }
  end
  redis.call('HSET', KEYS[1], 'format', '1', 'pos', pos)
end
local reply = { pos }
for at = 2, 5 do
  reply[at] = tonumber(cursor[at]) or 0
end
return reply
