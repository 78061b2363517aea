#!lua flags=allow-oom
-- Removes entries older than an id from some streams, unless a newer configuration of the route writes by now. Its
-- `keep.age` may be longer, and an instance that was frozen learns of it only after this call.
-- It works on a server that is out of memory: it frees memory.
--
-- KEYS  1  state     hash
--       …  the streams
-- ARGV  1  revision  newer ones compare higher; an older configuration trims nothing
--       2  oldest    the id of the oldest entry that stays
--       3  future    the id from which on entries are from the future
--
-- Returns { 'OK' or 'OUTDATED', a stream with an entry from the future or '' }.
local call, ahead = redis.call, ''

local known = call('HMGET', KEYS[1], 'revision')[1]
if known and ARGV[1] < known then return { 'OUTDATED', '' } end

for k = 2, #KEYS do
  local trimmed = redis.pcall('XTRIM', KEYS[k], 'MINID', '=', ARGV[2])
  if type(trimmed) == 'table' then
    -- The append reports a key of another type; the other streams are trimmed all the same.
    if not string.find(trimmed.err, 'WRONGTYPE', 1, true) then return trimmed end
  elseif ahead == '' and #call('XRANGE', KEYS[k], ARGV[3], '+', 'COUNT', 1) > 0 then
    ahead = KEYS[k]
  end
end
return { 'OK', ahead }
