#!lua flags=allow-oom
-- What an ideal client needs to publish each entry once: the cursor is where it thinks, or nothing is done.
-- KEYS  cursor    ARGV  prev, last, then the messages
if (redis.call('HGET', KEYS[1], 'pos') or '0') ~= ARGV[1] then return redis.error_reply('ASTRAY') end
for at = 3, #ARGV do redis.call('PUBLISH', 'bench', ARGV[at]) end
redis.call('HSET', KEYS[1], 'pos', ARGV[2])
return 1
