-- Opens a window: increments the epoch, which never goes back, and publishes the anchor with it.
-- No `#!lua` here: sources may be as old as Redis 6.2, which does not know it.
--
-- KEYS  1  epoch    string, the last epoch that was handed out
-- ARGV  1  channel  the control channel
--       2  floor    no epoch below this
--       3  id       the anchor's
--
-- Returns the epoch.
local time = redis.call('TIME')
local epoch = time[1] * 1000 + math.floor(time[2] / 1000)
local last = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
-- A number that cannot be an epoch is no reason to stop for ever: the floor holds.
if last >= 0 and last < 999999999999999 and epoch <= last then epoch = last + 1 end
local floor = tonumber(ARGV[2])
if epoch < floor then epoch = floor end
local text = string.format('%015.0f', epoch)
redis.call('SET', KEYS[1], text)
redis.call('PUBLISH', ARGV[1], 'tidegate1 anchor ' .. text .. ' ' .. ARGV[3])
return text
