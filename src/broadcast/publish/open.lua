#!lua flags=allow-oom
-- Finds a route's cursor, or makes it if it is known where to begin.
--
-- KEYS  1  cursor  hash
--       2  stream
-- ARGV  1  start   '' (not configured), 'end', or an id: the cursor's place on a stream that has entries;
--                  'new': the stream is newer than the route, so every entry that was ever added to it is due
--       2  failed  '' or the id of an entry whose publishing failed since, for its own sake
--       3  error   the error of that failure
--       4  below   '' or the cursor that the caller found above all ids of the stream: if the cursor is still the
--                  same, the stream began anew, and so does the cursor
--
-- Returns { cursor, published, unheard, dead letters, filtered, failing, failures, row, error, counted }.
-- The cursor is '' if there is none and the stream has entries: the configuration must say where to begin.
-- failing to error are about the entry that failed last: its id, how often it failed, how many different entries
-- failed without one being published since, and the last error. counted is how many entries were ever added up to
-- the cursor, or '' if that is not known.
local cursor = redis.call('HMGET', KEYS[1], 'pos', 'published', 'unheard', 'rejected', 'filtered', 'counted')
local pos, counted = cursor[1], cursor[6] or ''

-- Whether one id is below another. Its numbers have up to 20 digits, more than a Lua number holds.
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
  -- An error where there is no stream: then none of this is known, and nothing was added.
  local flat = redis.pcall('XINFO', 'STREAM', KEYS[2])
  for at = 1, #flat, 2 do
    about[flat[at]] = flat[at + 1]
  end
end
if pos and pos == ARGV[4] and below(about['last-generated-id'] or '0-0', pos) then
  pos = nil
end
if not pos then
  local entries = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
  local added, length = about['entries-added'] or 0, about['length'] or 0
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
    return { '', 0, 0, 0, 0, '', 0, 0, '', '' }
  end
  redis.call('HSET', KEYS[1], 'format', '1', 'pos', pos, 'counted', counted)
end
local reply = { pos }
for at = 2, 5 do
  reply[at] = tonumber(cursor[at]) or 0
end

local failing = redis.call('HMGET', KEYS[1], 'failing', 'failures', 'failing_row', 'failing_after', 'failing_error')
local published = cursor[2] or '0'
local row = failing[4] == published and tonumber(failing[3]) or 0
if ARGV[2] ~= '' then
  local again = failing[1] == ARGV[2]
  row = again and math.max(row, 1) or row + 1
  failing = { ARGV[2], (again and tonumber(failing[2]) or 0) + 1, row, published, ARGV[3] }
  redis.call('HSET', KEYS[1], 'failing', failing[1], 'failures', failing[2], 'failing_row', row,
    'failing_after', published, 'failing_error', failing[5])
end
reply[6], reply[7], reply[8], reply[9] = failing[1] or '', tonumber(failing[2]) or 0, row, failing[5] or ''
reply[10] = counted
return reply
