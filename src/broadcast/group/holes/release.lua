#!lua flags=allow-oom
-- Publishes entries that were left behind as holes, and removes the holes, in one step.
--
-- Removing an id from the set is the compare-and-set: an id that is not there was published by another instance.
--
-- KEYS  1  cursor        hash
--       2  dead letters  stream
--       3  stream
--       4  holes         sorted set
-- ARGV  1  published     messages of this batch that went out on another server already
--       2  unheard       of these, those without a receiver
--       3  command       PUBLISH or SPUBLISH
--       4  sent ids      of the messages that went out already, with a space after each
--       5  ids           of the items below, in order, with a space after each
--       …  for each item two values: channel and message,
--          or '' and "reason detail" if the entry cannot be published,
--          or '' and "filtered" if the route's filter leaves it out by now
--
-- Returns as publish.lua, without a count: the cursor does not move.
local cursor = redis.call('HMGET', KEYS[1], 'pos', 'published', 'unheard', 'rejected', 'filtered')
if (cursor[1] or '') == '' then
  return { 0, '', '', '', '' }
end
local published, unheard, rejected, filtered = tonumber(ARGV[1]), tonumber(ARGV[2]), 0, 0
local failure, failed = nil, ''

local function member(id)
  local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
  return string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #sequence) .. sequence
end

for id in string.gmatch(ARGV[4], '%S+') do
  redis.call('ZREM', KEYS[4], member(id))
end

local at = 6
for id in string.gmatch(ARGV[5], '%S+') do
  local channel, message = ARGV[at], ARGV[at + 1]
  at = at + 2
  if redis.call('ZREM', KEYS[4], member(id)) == 1 then
    local answer
    if channel ~= '' then
      answer = redis.pcall(ARGV[3], channel, message)
    elseif message ~= 'filtered' then
      local reason, detail = string.match(message, '^(%S+) (.*)$')
      answer = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'stream', KEYS[3],
        'id', id, 'reason', reason, 'detail', detail)
    end
    failure = type(answer) == 'table' and answer['err']
    if failure then
      redis.call('ZADD', KEYS[4], 0, member(id))
      failed = channel ~= '' and id or ''
      break
    end
    if channel == '' and message == 'filtered' then
      filtered = filtered + 1
    elseif channel == '' then
      rejected = rejected + 1
    else
      published = published + 1
      if answer == 0 then
        unheard = unheard + 1
      end
    end
  end
end

if rejected > 0 then
  redis.call('XTRIM', KEYS[2], 'MINID', '~', string.format('%.0f', (redis.call('TIME')[1] - 2592000) * 1000))
end
redis.call('HSET', KEYS[1],
  'published', string.format('%.0f', (tonumber(cursor[2]) or 0) + published),
  'unheard', string.format('%.0f', (tonumber(cursor[3]) or 0) + unheard),
  'rejected', string.format('%.0f', (tonumber(cursor[4]) or 0) + rejected),
  'filtered', string.format('%.0f', (tonumber(cursor[5]) or 0) + filtered))
return { 1, cursor[1], published, unheard, rejected, filtered, failure or '', failed, '' }
