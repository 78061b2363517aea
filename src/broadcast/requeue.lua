#!lua flags=allow-oom
-- Publishes a dead letter's entry and removes the letter, in one step.
--
-- KEYS  1  dead letters  stream
-- ARGV  1  id            the letter's
--       2  channel       '' if the message went out on another server already
--       3  message
--       4  command       PUBLISH or SPUBLISH
--
-- Returns the number of receivers, or -1 if there is no such letter.
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return -1 end
-- No entry has this id. A missing right is noticed here; after the message is published, it would cause a repetition.
redis.call('XDEL', KEYS[1], '0-0')
local receivers = 0
if ARGV[2] ~= '' then receivers = redis.call(ARGV[4], ARGV[2], ARGV[3]) end
redis.call('XDEL', KEYS[1], ARGV[1])
return receivers
