#!lua flags=allow-oom
-- Finds a replay's checkpoint, or makes it.
--
-- KEYS  1  checkpoint  hash
-- ARGV  1  of          what is replayed and to where, in words: it identifies the replay
--       2  pos         the id after which a new replay begins
--       3  from        the range of a new replay
--       4  to
--       5  now         milliseconds since 1970
--       6  ttl         how long an unfinished replay is kept, in milliseconds
--       7  anew        '1' to forget what is known first
--
-- Returns { of, pos, from, to, started at, published, unheard, skipped, whether it was there }.
if ARGV[7] == '1' then redis.call('DEL', KEYS[1]) end
local known = redis.call('HMGET', KEYS[1], 'of', 'pos', 'from', 'to', 'started_at', 'published', 'unheard',
  'filtered')
if not known[1] then
  redis.call('HSET', KEYS[1], 'format', '1', 'of', ARGV[1], 'pos', ARGV[2], 'from', ARGV[3], 'to', ARGV[4],
    'started_at', ARGV[5])
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
  return { ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], '0', '0', '0', 0 }
end
if known[1] == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
return { known[1], known[2] or '', known[3] or '', known[4] or '', known[5] or '', known[6] or '0', known[7] or '0',
  known[8] or '0', 1 }
