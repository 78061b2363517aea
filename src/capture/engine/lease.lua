#!lua flags=allow-oom
-- Records that an instance is alive and what it has buffered, and grants the lease to write. The lease only saves work:
-- the position alone decides what is stored.
--
-- KEYS  1  state       hash
--       2  lease       hash
-- ARGV  1  instance
--       2  want        'watch', 'claim' (if no instance holds the lease), 'seize', 'release', 'leave'
--       3  lasts       how long the lease lasts, in ms
--       4  remembered  how long an instance is remembered, in ms
--       5  eligible    '1' if the instance could continue without a gap
--       6  first       the first position that it holds, or '-'
--       7  instead     the revision that writes again in the place of `gone`, or ''
--       8  gone        the revision whose instance is gone, or ''
--       9  revision    the instance's own
--
-- Returns { holder or '', the state as HGETALL, the other instances: for each its name, ms since it was seen, eligible,
--           first, revision or '' }.
local state, lease, me, want = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local lasts, remembered = tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local held = redis.call('HMGET', lease, 'holder', 'until')
local holder, left = held[1] or '', (tonumber(held[2] or '') or 0) - now
-- A lease that would last longer than any that was given is from before the server's clock went back.
if left <= 0 or left > lasts then holder = '' end
if want == 'seize' or (want == 'claim' and (holder == '' or holder == me)) then
  holder = me
  redis.call('HSET', lease, 'holder', me, 'until', string.format('%.0f', now + lasts))
elseif holder == me and (want == 'release' or want == 'leave') then
  holder = ''
  redis.call('HDEL', lease, 'holder', 'until')
end
-- Where this instance continues, the ordered stop of the one before leaves no gap: a later end is another.
if holder == me and ARGV[5] == '1' then redis.call('HDEL', state, 'stopped') end
if want == 'leave' then
  redis.call('HDEL', lease, 'instance:' .. me, 'revision:' .. me)
else
  local seen = string.format('%.0f', now) .. ' ' .. ARGV[5] .. ' ' .. ARGV[6]
  redis.call('HSET', lease, 'instance:' .. me, seen, 'revision:' .. me, ARGV[9])
end
redis.call('PEXPIRE', lease, remembered * 10)

if ARGV[7] ~= '' and redis.call('HGET', state, 'revision') == ARGV[8] then
  -- The highest revision keeps its rank, and takes over again when its instance comes back.
  if ARGV[8] > (redis.call('HGET', state, 'highest') or '') then redis.call('HSET', state, 'highest', ARGV[8]) end
  redis.call('HSET', state, 'revision', ARGV[7])
  redis.call('HDEL', state, 'next')
end

local others = {}
local fields = redis.call('HGETALL', lease)
for i = 1, #fields, 2 do
  local name = string.match(fields[i], '^instance:(.*)')
  if name and name ~= me then
    local seen, eligible, first = string.match(fields[i + 1], '^(%d+) (%d) (.*)')
    local ago = seen and math.abs(now - tonumber(seen)) or remembered
    if ago >= remembered then
      redis.call('HDEL', lease, fields[i], 'revision:' .. name)
    else
      others[#others + 1] = name
      others[#others + 1] = string.format('%.0f', ago)
      others[#others + 1] = eligible
      others[#others + 1] = first
      others[#others + 1] = redis.call('HGET', lease, 'revision:' .. name) or ''
    end
  end
end
-- An ordered stop plans the gap only if no instance is left. So the mark waits while there is one, and the last to leave
-- confirms it. An instance that crashes does not.
local mark = want == 'leave' and redis.call('HGET', state, 'stopped')
if mark then redis.call('HSET', state, 'stopped', (#others == 0 and '' or '?') .. string.gsub(mark, '^%?', '')) end
return { holder, redis.call('HGETALL', state), others }
