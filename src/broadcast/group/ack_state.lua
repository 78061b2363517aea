#!lua flags=no-writes,allow-oom
-- Reports how far a consumer group has acknowledged a stream. It changes nothing.
--
-- An entry is acknowledged if its id is at most the group's last-delivered-id and it is not pending. Both are read in
-- this one step: between two steps the group could be destroyed and made again.
--
-- KEYS  1  stream
--       2  holes   sorted set, only with order = "acknowledgement"
-- ARGV  1  group
--       2  after   up to where the caller has read
--       3  scan    the hole behind which acknowledged ones are looked for, or '' to look for none
--       4  step    how many pending ids or holes to go through at most
--       5  tells   '1' to report on the stream as well
--
-- Returns {} if there is no such group, else
--   { last delivered, entries read or -1, pending, consumers,
--     the lowest pending: { id, consumer, idle ms, deliveries } or {},
--     the stream: { entries added, length, last id, first id or '', the first id after `after` or '', the first id that
--     the group was not given or '' } or {},
--     how far the next list is complete, the pending ids after `after` up to there,
--     how many holes there are, the end of the scan or '' at the set's end, the holes that are acknowledged }
local group, after, scan, step = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local function get(flat, name)
  for at = 1, #flat, 2 do
    if flat[at] == name then
      return flat[at + 1]
    end
  end
end

-- Returns whether one decimal number is at most another: they have up to 20 digits, more than a Lua number holds.
local function at_most(left, right)
  return #left < #right or (#left == #right and left <= right)
end

local function id_at_most(left, right)
  local left_ms, left_sequence = string.match(left, '^(%d+)-(%d+)$')
  local right_ms, right_sequence = string.match(right, '^(%d+)-(%d+)$')
  if left_ms ~= right_ms then
    return at_most(left_ms, right_ms)
  end
  return at_most(left_sequence, right_sequence)
end

local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups['err'] then
  -- 'no such key' is no group either; everything else is the caller's to know.
  if string.find(groups['err'], 'no such key', 1, true) then
    return {}
  end
  return groups
end
local found
for _, each in ipairs(groups) do
  if get(each, 'name') == group then
    found = each
  end
end
if not found then
  return {}
end
local delivered, pending = get(found, 'last-delivered-id'), get(found, 'pending')
-- A group without a count of its reads may have been set to a place without entries.
if not get(found, 'entries-read') then
  local last = get(redis.call('XINFO', 'STREAM', KEYS[1]), 'last-generated-id')
  if not id_at_most(delivered, last) then
    delivered = last
  end
end

local lowest = {}
if pending > 0 then
  lowest = redis.call('XPENDING', KEYS[1], group, '-', '+', 1)[1] or {}
end

local stream = {}
if ARGV[5] == '1' then
  local about = redis.call('XINFO', 'STREAM', KEYS[1])
  local first = get(about, 'first-entry')
  local function behind(id)
    local entry = redis.call('XRANGE', KEYS[1], '(' .. id, '+', 'COUNT', 1)[1]
    return entry and entry[1] or ''
  end
  stream = { get(about, 'entries-added'), get(about, 'length'), get(about, 'last-generated-id'),
    first and first[1] or '', behind(after), behind(delivered) }
end

local complete, ids = delivered, {}
if KEYS[2] and pending > 0 and not id_at_most(delivered, after) then
  for _, each in ipairs(redis.call('XPENDING', KEYS[1], group, '(' .. after, delivered, step)) do
    ids[#ids + 1] = each[1]
  end
  if #ids == step then
    complete = ids[step]
  end
end

local holes, reached, acknowledged = 0, '', {}
if KEYS[2] then
  holes = redis.call('ZCARD', KEYS[2])
end
if scan ~= '' and holes > 0 then
  -- Members are ids with leading zeros, so that their order is that of the stream.
  local function padded(id)
    local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
    return string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #sequence) .. sequence
  end
  local mine = redis.call('ZRANGEBYLEX', KEYS[2], '(' .. padded(scan), '+', 'LIMIT', 0, step)
  for at, member in ipairs(mine) do
    local ms, sequence = string.match(member, '^0*(%d+)-0*(%d+)$')
    mine[at] = ms .. '-' .. sequence
  end
  if #mine > 0 then
    local most = step * 2
    local theirs = redis.call('XPENDING', KEYS[1], group, mine[1], mine[#mine], most)
    local waits = {}
    for _, each in ipairs(theirs) do
      waits[each[1]] = true
    end
    for _, id in ipairs(mine) do
      local open = waits[id]
      if not open and #theirs == most then
        open = #redis.call('XPENDING', KEYS[1], group, id, id, 1) > 0
      end
      -- A group that was set back or made again has not been given the entry yet.
      if not open and id_at_most(id, delivered) then
        acknowledged[#acknowledged + 1] = id
      end
    end
    if #mine == step then
      reached = mine[step]
    end
  end
end

return { delivered, get(found, 'entries-read') or -1, pending, get(found, 'consumers'), lowest, stream,
  complete, ids, holes, reached, acknowledged }
