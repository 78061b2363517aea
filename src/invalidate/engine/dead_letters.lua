#!lua flags=allow-oom
-- Writes the dead letters of entries, but for those that are among the latest ones: another instance of the route reads
-- the same entries, and so does this one after a crash.
--
-- KEYS  1  dead letters  stream
-- ARGV  1  stream
--       then for each entry its id, the reason, and a detail for the operator
--
-- Returns the number of letters written.
local latest = {}
for _, letter in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 512)) do
  local fields = letter[2]
  latest[(fields[4] or '') .. ' ' .. (fields[6] or '')] = true
end
local written = 0
for at = 2, #ARGV, 3 do
  if not latest[ARGV[at] .. ' ' .. ARGV[at + 1]] then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', 10000, '*', 'stream', ARGV[1],
      'id', ARGV[at], 'reason', ARGV[at + 1], 'detail', ARGV[at + 2])
    written = written + 1
  end
end
redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f', (redis.call('TIME')[1] - 2592000) * 1000))
return written
