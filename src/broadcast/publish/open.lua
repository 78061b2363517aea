#!lua flags=allow-oom
-- Finds a route's cursor for a stream, or makes it if it is known where to begin.
--
-- A route of one stream has its place in the route's own cursor, which names the stream. A route of many streams has
-- one cursor for each, but a stream that the route's cursor names has its place there. So a route may change from one
-- stream to many and back: there is one place for each stream, and instances of both forms share it and its lease.
--
-- KEYS  1  cursor  hash of the route. Of a stream among many it is this name, a colon, and the stream's name
--       2  stream
--       3  lease   of the route, only across two servers; of a stream among many in the same way
-- ARGV  1  start   '' (not configured), 'end', or an id: the cursor's place on a stream that has entries;
--                  'new': the stream is newer than the route, so every entry that was ever added to it is due
--       2  failed  '' or the id of an entry whose publishing failed since, for its own sake
--       3  error   the error of that failure
--       4  below   '' or the cursor that the caller found above all ids of the stream: if the cursor is still the
--                  same, the stream began anew, and so does the cursor
--       5  many    '1' if the stream is one of many, else ''
--       6  counted '' or the count that the cursor must have as well: the stream was replaced by one with entries before
--                  the cursor
--       7  after   then entries of the new stream after this one and up to the cursor are published already
--
-- Returns { cursor, published, unheard, dead letters, filtered, failing, failures, row, error, counted, place, after,
--           up to }.
-- The place is 'route' if the route's cursor has it, else 'stream'. With another place there is no cursor: 'unnamed' if
-- the route's cursor does not name its stream, 'unreadable' if the stream's cursor of the other form may not be read
-- (error says why), 'newer' if a newer release wrote the route's cursor, or that of the stream (then error is not '').
-- The cursor is '' if there is none and the stream has entries: the configuration must say where to begin.
-- Entries after `after` and up to `up to` were published before ('' if there are none).
-- failing to error are about the entry that failed last: its id, how often it failed, how many different entries
-- failed without one being published since, and the last error. counted is how many entries were ever added up to
-- the cursor, or '' if that is not known.
local stream, many = KEYS[2], ARGV[5] == '1'
local of_stream = KEYS[1] .. ':' .. stream

local function without(place, why)
  return { '', 0, 0, 0, 0, '', 0, 0, why or '', '', place, '', '' }
end

-- Moves a cursor to the key of the route's other form; returns an error's text.
local function move(from, to, named)
  local fields = { 'pos', 'counted', 'published', 'unheard', 'rejected', 'filtered', 'failing', 'failures',
    'failing_row', 'failing_after', 'failing_error', 'passes_after', 'passes_up_to' }
  local values = redis.pcall('HMGET', from, unpack(fields))
  if values['err'] then
    return values['err']
  end
  local set, clear = {}, {}
  for at, name in ipairs(fields) do
    set[2 * at - 1], set[2 * at] = name, values[at] or ''
    clear[2 * at - 1], clear[2 * at] = name, ''
  end
  if (values[1] or '') == '' then
    return
  end
  local moved = redis.pcall('HSET', to, 'format', '1', 'stream', named, unpack(set))
  if type(moved) == 'table' and moved['err'] then
    return moved['err']
  end
  -- An instance that publishes from there finds no cursor any more, and looks for it again.
  redis.call('HSET', from, unpack(clear))
end

local route = redis.call('HMGET', KEYS[1], 'format', 'pos', 'stream', 'looked')
local there, named = (route[2] or '') ~= '', (route[3] or '') ~= '' and route[3]
local key, place = KEYS[1], 'route'
if (route[1] or '1') ~= '1' then
  return without('newer')
elseif many and there and not named then
  return without('unnamed')
elseif many and not (there and named == stream) then
  key, place = of_stream, 'stream'
elseif not many and route[4] and named ~= stream and (named or not there) then
  -- The route had many streams: another one may have its place here, and this one has it elsewhere.
  local refused = there and move(KEYS[1], KEYS[1] .. ':' .. named, named) or move(of_stream, KEYS[1], stream)
  local held = not refused and KEYS[3] and redis.pcall('HMGET', KEYS[3] .. ':' .. stream, 'holder', 'until') or {}
  refused = refused or held['err']
  if refused then
    return without('unreadable', refused)
  elseif held[1] and held[2] then
    redis.call('HSET', KEYS[3], 'holder', held[1], 'until', held[2])
  end
end
local cursor = redis.call('HMGET', key, 'pos', 'published', 'unheard', 'rejected', 'filtered', 'counted', 'format')
if (cursor[7] or '1') ~= '1' then
  return without('newer', 'of the stream')
end
local pos, counted = cursor[1], cursor[6] or ''
if pos == '' then
  pos = nil
end

-- Returns whether one id is below another. Its numbers have up to 20 digits, more than a Lua number holds.
local function below(left, right)
  local left_ms, left_sequence = string.match(left, '^(%d+)-(%d+)$')
  local right_ms, right_sequence = string.match(right, '^(%d+)-(%d+)$')
  if left_ms == right_ms then
    left_ms, right_ms = left_sequence, right_sequence
  end
  return #left_ms < #right_ms or (#left_ms == #right_ms and left_ms < right_ms)
end

local about = {}
if not pos or pos == ARGV[4] then
  -- The call fails if the stream does not exist: then nothing was added.
  local flat = redis.pcall('XINFO', 'STREAM', KEYS[2])
  -- Named, since the server does not say which key it is.
  if string.sub(flat['err'] or '', 1, 9) == 'WRONGTYPE' then
    return { err = "WRONGTYPE the key '" .. KEYS[2] .. "' has another type" }
  end
  for at = 1, #flat, 2 do
    about[flat[at]] = flat[at + 1]
  end
end
if pos and pos == ARGV[4] then
  if ARGV[6] == '' then
    pos = not below(about['last-generated-id'] or '0-0', pos) and pos or nil
  elseif ARGV[6] == counted then
    redis.call('HSET', key, 'passes_after', ARGV[7], 'passes_up_to', pos)
    pos = nil
  end
end
if not pos then
  local entries = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
  local added, length = about['entries-added'] or 0, about['length'] or 0
  -- A cursor that begins anew counts in the next stream, and keeps the count of the stream before (publish/count.rs).
  local before, stream = string.match(counted, '^(%d*):?(%d*)')
  local streams = cursor[1] and string.format(':%.0f:', (tonumber(stream) or 0) + 1) .. before or ''
  counted = ''
  if ARGV[1] == 'new' then
    pos, counted = '0-0', '0'
  elseif #entries == 0 then
    pos, counted = '0-0', string.format('%.0f', added)
  elseif ARGV[1] == 'end' then
    pos, counted = about['last-generated-id'], string.format('%.0f', added)
  elseif ARGV[1] ~= '' then
    pos = ARGV[1]
    if pos == '0-0' then
      counted = string.format('%.0f', added - length)
    end
  else
    return without(place)
  end
  counted = counted .. streams
  redis.call('HSET', key, 'format', '1', 'pos', pos, 'counted', counted)
end
if not many and named ~= stream then
  redis.call('HSET', key, 'stream', stream)
end
local reply = { pos }
for at = 2, 5 do
  reply[at] = tonumber(cursor[at]) or 0
end

local failing = redis.call('HMGET', key, 'failing', 'failures', 'failing_row', 'failing_after', 'failing_error')
local published = (cursor[2] or '') ~= '' and cursor[2] or '0'
local row = failing[4] == published and tonumber(failing[3]) or 0
if ARGV[2] ~= '' then
  local again = failing[1] == ARGV[2]
  row = again and math.max(row, 1) or row + 1
  failing = { ARGV[2], (again and tonumber(failing[2]) or 0) + 1, row, published, ARGV[3] }
  redis.call('HSET', key, 'failing', failing[1], 'failures', failing[2], 'failing_row', row,
    'failing_after', published, 'failing_error', failing[5])
end
reply[6], reply[7], reply[8], reply[9] = failing[1] or '', tonumber(failing[2]) or 0, row, failing[5] or ''
reply[10], reply[11] = counted, place
local passes = redis.call('HMGET', key, 'passes_after', 'passes_up_to')
reply[12], reply[13] = passes[1] or '', passes[2] or ''
return reply
