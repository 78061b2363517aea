#!lua flags=allow-oom
-- Reports which instance publishes on another server, and grants or renews the lease for it.
--
-- The time is this server's.
--
-- KEYS  1  lease   hash
--       2  cursor  hash
-- ARGV  1  instance
--       2  want    'begin': a session begins; as 'claim', but an instance that waits already goes first
--                  'claim': to hold the lease if no other instance holds it
--                  'release': another instance takes the lease
--       3  lasts   how long the lease lasts, in ms
--
-- Returns { holder or '', ms left, '1' if another instance waits or '', cursor or '', its count or '', published,
--           unheard, dead letters, filtered }: the counts are those of the cursor.
local me, want, lasts = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local lease = redis.call('HMGET', KEYS[1], 'holder', 'until', 'waits', 'seen')
local holder, left = lease[1] or '', (tonumber(lease[2] or '') or 0) - now
-- A lease that would last longer than any is given is from before the server's clock went back.
if left <= 0 or left > lasts then
  holder, left = '', 0
end
local other = lease[3] and lease[3] ~= me and math.abs(now - (tonumber(lease[4] or '') or 0)) < lasts

local mine = holder == '' or holder == me
if mine and (want == 'release' or (want == 'begin' and other)) then
  if lease[1] == me then
    redis.call('HDEL', KEYS[1], 'holder', 'until')
  end
  holder, left = '', 0
elseif mine and want ~= 'release' then
  holder, left = me, lasts
  redis.call('HSET', KEYS[1], 'holder', me, 'until', string.format('%.0f', now + lasts))
end
if want == 'release' then
  if lease[3] == me then
    redis.call('HDEL', KEYS[1], 'waits', 'seen')
  end
elseif holder ~= me then
  redis.call('HSET', KEYS[1], 'waits', me, 'seen', string.format('%.0f', now))
elseif lease[3] == me then
  redis.call('HDEL', KEYS[1], 'waits', 'seen')
end
redis.call('PEXPIRE', KEYS[1], lasts * 10)

local cursor = redis.call('HMGET', KEYS[2], 'pos', 'counted', 'published', 'unheard', 'rejected', 'filtered')
local reply = { holder, left, other and '1' or '', cursor[1] or '', cursor[2] or '' }
for at = 3, 6 do
  reply[at + 3] = tonumber(cursor[at]) or 0
end
return reply
