#!lua flags=allow-oom
-- Renews an instance's presence, ranks its configuration, and says who writes. The lease only saves work:
-- the position alone decides what is stored.
--
-- KEYS[1] state  [2] lease
-- ARGV[1] instance
-- ARGV[2] request: 'watch', 'claim' (if the lease is free), 'reclaim' (the same, and the configuration that wrote last
--         is given up), 'seize', 'release', 'leave'
-- ARGV[3] lease time, ms   [4] time for which an instance is remembered, ms
-- ARGV[5] '1': the instance could go on without a gap   [6] its first position that waits, or '-'
-- ARGV[7] hashes of its configuration: numbering-mapping   [8] the configuration's generation, '0' before it has one
-- Reply: holder of the lease or '', the state as HGETALL, the other instances, the generation.
--         Of each other instance: name, ms since its last call, ARGV[5], ARGV[6], revision.
local state, lease, me, want = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local lasts, remembered = tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local held = redis.call('HMGET', lease, 'holder', 'until')
local holder, left = held[1] or '', (tonumber(held[2] or '') or 0) - now
-- A lease that would last longer than any that is given is from before the server's clock went back.
if left <= 0 or left > lasts then holder = '' end

local others, highest = {}, 0
-- A generation is a count of configurations: a larger number was never given.
local function generation_of(revision)
  local number = tonumber(string.match(revision or '', '^(%d+)%-')) or 0
  return number < 1e9 and number or 0
end
local fields = redis.call('HGETALL', lease)
for i = 1, #fields, 2 do
  local name = string.match(fields[i], '^instance:(.*)')
  if name and name ~= me then
    local seen, eligible, first, revision = string.match(fields[i + 1], '^(%d+) (%d) (%S+) ?(.*)')
    local ago = seen and math.abs(now - tonumber(seen)) or remembered
    if ago >= remembered then
      redis.call('HDEL', lease, fields[i])
    else
      others[#others + 1] = name
      others[#others + 1] = string.format('%.0f', ago)
      others[#others + 1] = eligible
      others[#others + 1] = first
      others[#others + 1] = revision
      highest = math.max(highest, generation_of(revision))
    end
  end
end

-- A configuration keeps the generation that it is given. It outranks every configuration that was known by then.
local known = redis.call('HMGET', state, 'revision', 'generation')
local generation = tonumber(ARGV[8]) or 0
if generation == 0 then
  if generation_of(known[1]) > 0 and string.match(known[1], '^%d+%-(.*)$') == ARGV[7] then
    generation = generation_of(known[1])
  else
    generation = math.max(highest, generation_of(known[1]), generation_of((known[2] or '0') .. '-')) + 1
  end
end
if want ~= 'leave' and generation > generation_of((known[2] or '0') .. '-') then
  redis.call('HSET', state, 'generation', string.format('%.0f', generation))
end
local revision = string.format('%010.0f', generation) .. '-' .. ARGV[7]

local free = holder == '' or holder == me
if want == 'seize' or ((want == 'claim' or want == 'reclaim') and free) then
  holder = me
  redis.call('HSET', lease, 'holder', me, 'until', string.format('%.0f', now + lasts))
  if want == 'reclaim' then
    redis.call('HDEL', state, 'next')
    if known[1] and known[1] > revision then redis.call('HSET', state, 'given_up', known[1]) end
  end
elseif holder == me and (want == 'release' or want == 'leave') then
  holder = ''
  redis.call('HDEL', lease, 'holder', 'until')
end
local own = 'instance:' .. me
if want == 'leave' then
  redis.call('HDEL', lease, own)
else
  redis.call('HSET', lease, own, table.concat({string.format('%.0f', now), ARGV[5], ARGV[6], revision}, ' '))
end
redis.call('PEXPIRE', lease, remembered * 10)
return {holder, redis.call('HGETALL', state), others, string.format('%.0f', generation)}
