#!lua flags=allow-oom
-- Publishes a batch of entries and moves the cursor over them, in one step.
--
-- KEYS  1  cursor        hash
--       2  dead letters  stream
--       3  stream
--       4  holes         sorted set, only with order = "acknowledgement"
-- ARGV  1  prev          the id that the caller expects of the cursor
--       2  last          the id of the batch's last entry
--       3  published     messages of this batch that went out on another server already
--       4  unheard       of these, those without a receiver
--       5  filtered      entries of this batch that the route's filter left out
--       6  counted       how many entries were ever added up to the batch's last: '+n', n more than up to the cursor;
--                        '=n+m', n, determined anew for another stream, of which this batch has m; '' if that is not
--                        known. Another instance may have raised the cursor's count, for entries that it found
--                        missing, so the caller does not know what '+n' is added to
--       7  command       PUBLISH or SPUBLISH
--       8  channel       of every item, or '' if they do not share one
--       9  ids           of the items below, in order, with a space after each; `id+n` if n entries before it were
--                        left out
--       …  for each item its message, or, without a shared channel, two values: channel and message,
--          or '' and "reason detail" if the entry cannot be published,
--          or '' and "hole" if it is not acknowledged and is published later
--
-- Returns { 0, cursor, its count, after, up to } if the cursor is not what the caller expects ('' if there is none;
--         entries after `after` and up to `up to` were published before, see open.lua), else
--         { 1, cursor, published, unheard, dead letters, filtered, error, failed, its count }: the counts of this
--         call, the error reply that stopped it before the batch's end or '', and the entry that could not be
--         published, '' if a dead letter or a hole could not be written.
local cursor = redis.call('HMGET', KEYS[1], 'pos', 'published', 'unheard', 'rejected', 'filtered', 'counted')
if cursor[1] ~= ARGV[1] then
  local passes = redis.call('HMGET', KEYS[1], 'passes_after', 'passes_up_to')
  return { 0, cursor[1] or '', cursor[6] or '', passes[1] or '', passes[2] or '' }
end

local first, command, shared = 10, ARGV[7], ARGV[8]
local published, unheard, rejected = tonumber(ARGV[3]), tonumber(ARGV[4]), 0
local filtered = tonumber(ARGV[5])
local last, failure, failed = ARGV[2], nil, ''

-- The id of an item, counted from 1, and the number of entries left out before it; the cursor comes first. Rarely
-- needed, so the ids come as one value and are not split before.
local ids, left_out
local function up_to(item)
  if not ids then
    ids, left_out = { [0] = ARGV[1] }, { [0] = 0 }
    for id, before in string.gmatch(ARGV[9], '([^+%s]+)%+?(%d*)') do
      local at = #ids + 1
      ids[at], left_out[at] = id, left_out[at - 1] + (tonumber(before) or 0)
    end
  end
  return ids[item], left_out[item]
end

-- Without pcall, an error in the middle would leave the first messages out and the cursor unmoved,
-- and every retry would publish them again.
local pcall = redis.pcall

-- Nearly every batch, so this loop does nothing for a message that it can do after it.
if shared ~= '' then
  local stopped
  for at = first, #ARGV do
    local answer = pcall(command, shared, ARGV[at])
    if answer == 0 then
      unheard = unheard + 1
    elseif answer ~= 1 and type(answer) == 'table' then
      stopped, failure = at - first + 1, answer['err']
      break
    end
  end
  published = published + (stopped or #ARGV - first + 2) - 1
  if stopped then
    failed = up_to(stopped)
    last, filtered = up_to(stopped - 1)
  end
else
  for at = first, #ARGV, 2 do
    local channel, message = ARGV[at], ARGV[at + 1]
    local item = (at - first) / 2 + 1
    local answer, hole
    if channel ~= '' then
      answer = pcall(command, channel, message)
    elseif message == 'hole' then
      -- With leading zeros, so that the order of the set is that of the stream.
      hole = true
      local ms, sequence = string.match((up_to(item)), '^(%d+)-(%d+)$')
      answer = pcall('ZADD', KEYS[4], 0,
        string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #sequence) .. sequence)
    else
      local reason, detail = string.match(message, '^(%S+) (.*)$')
      answer = pcall('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'stream', KEYS[3],
        'id', (up_to(item)), 'reason', reason, 'detail', detail)
    end
    failure = type(answer) == 'table' and answer['err']
    if failure then
      failed = channel ~= '' and up_to(item) or ''
      last, filtered = up_to(item - 1)
      break
    elseif channel == '' then
      rejected = rejected + (hole and 0 or 1)
    else
      published = published + 1
      if answer == 0 then
        unheard = unheard + 1
      end
    end
  end
end

if rejected > 0 then
  -- 30 days, by the server's clock, which also made the ids.
  redis.call('XTRIM', KEYS[2], 'MINID', '~', string.format('%.0f', (redis.call('TIME')[1] - 2592000) * 1000))
end
-- The cursor's count: a number, and behind it the stream's number and the count of the stream before
-- (publish/count.rs).
local counted, streams = string.match(cursor[6] or '', '^(%d*)(.*)$')
local anew, more = string.match(ARGV[6], '^=?(%d*)%+(%d+)$')
if failure or not more then
  counted = ''
elseif anew ~= '' then
  local stream = tonumber(string.match(streams, '^:(%d+)')) or 0
  local before = counted ~= '' and string.format('%.0f', math.max(counted - (anew - more), 0)) or ''
  counted, streams = anew, string.format(':%.0f:', stream + 1) .. before
elseif counted ~= '' then
  counted = string.format('%.0f', counted + more)
end
counted = counted .. streams
redis.call('HSET', KEYS[1], 'pos', last, 'counted', counted,
  'published', string.format('%.0f', (tonumber(cursor[2]) or 0) + published),
  'unheard', string.format('%.0f', (tonumber(cursor[3]) or 0) + unheard),
  'rejected', string.format('%.0f', (tonumber(cursor[4]) or 0) + rejected),
  'filtered', string.format('%.0f', (tonumber(cursor[5]) or 0) + filtered))
return { 1, last, published, unheard, rejected, filtered, failure or '', failed, counted }
