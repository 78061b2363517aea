#!lua flags=allow-oom
-- Trims one stream to what its consumer groups have not acknowledged yet, and to a number of entries in any case.
-- It works on a server that is out of memory: it frees memory.
--
-- An entry is acknowledged by a group if its id is at most the group's last-delivered-id and it is not pending there.
-- All of it happens in this one step, so nothing is delivered in between. One call removes about `step` entries at
-- most; if more is to be removed, it asks to be called again.
--
-- KEYS  1  state     hash
--       2  stream
-- ARGV  1  revision  newer ones compare higher; an older configuration trims nothing
--       2  most      entries that stay, acknowledged or not
--       3  before    the id before which acknowledged entries are removed, or '' to remove them at once
--       4  step      about how many entries one call removes
--       5  acked     '1' if XTRIM knows ACKED
--       …  the groups
--
-- Returns { 'OK' or 'OUTDATED', entries removed, of these not acknowledged, 1 to be called again, not acknowledged
--           since the state was made, entries left, the group furthest behind, the groups that are missing }.
local state, stream, call = KEYS[1], KEYS[2], redis.call
local most, step = tonumber(ARGV[2]), tonumber(ARGV[4])

local known = call('HMGET', state, 'position', 'revision', 'trimmed_unacknowledged')
local before = tonumber(known[3] or '0')
if known[2] and ARGV[1] < known[2] then return { 'OUTDATED', 0, 0, 0, before, 0, '', {} } end
local length = call('XLEN', stream)
if length == 0 then return { 'OK', 0, 0, 0, before, 0, '', {} } end

-- Ids are two numbers of up to 64 bits: too large for Lua's, so they are compared as text.
local function less(one, other)
  local one_ms, one_sequence = string.match(one, '^(%d+)-(%d+)$')
  local other_ms, other_sequence = string.match(other, '^(%d+)-(%d+)$')
  if one_ms == other_ms then one_ms, other_ms = one_sequence, other_sequence end
  if #one_ms ~= #other_ms then return #one_ms < #other_ms end
  return one_ms < other_ms
end

-- The id behind one. A sequence of more digits stays as it is: that keeps an entry, and drops none.
local function after(id)
  local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
  if #sequence > 15 then return id end
  return ms .. '-' .. string.format('%.0f', tonumber(sequence) + 1)
end

local function first()
  local entry = call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return entry and entry[1]
end

local groups, pending = {}, 0
for _, info in ipairs(call('XINFO', 'GROUPS', stream)) do
  local group = {}
  for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
  groups[group.name] = group
  pending = pending + group.pending
end

-- Entries before `delivered` were delivered to every group; entries before `acknowledged` are pending in none.
local delivered, acknowledged, slowest
local missing, named, oldest = {}, {}, first()
for g = 6, #ARGV do
  local group, to, done = groups[ARGV[g]], '0-1', '0-1'
  if group then
    named[#named + 1] = ARGV[g]
    to = after(group['last-delivered-id'])
    -- Pending entries that are not in the stream any more, trimmed or deleted, do not count.
    local lowest = call('XPENDING', stream, ARGV[g], oldest, '+', 1)[1]
    done = lowest and less(lowest[1], to) and lowest[1] or to
  else
    missing[#missing + 1] = ARGV[g]
  end
  if not delivered or less(to, delivered) then delivered = to end
  if not acknowledged or less(done, acknowledged) then acknowledged, slowest = done, ARGV[g] end
end

local function old(id)
  if ARGV[3] ~= '' and less(ARGV[3], id) then return ARGV[3] end
  return id
end

-- Whole nodes of the stream first: that is fast, and LIMIT bounds it. Less than a node is left.
local removed = call('XTRIM', stream, 'MINID', '~', old(acknowledged), 'LIMIT', step)
local again = removed > 0
if not again then
  removed = call('XTRIM', stream, 'MINID', '=', old(acknowledged))
  -- ACKED also removes entries behind a pending one. It considers all groups of the stream, so it never removes more
  -- than is allowed up to `delivered`, which is nothing if a named group is missing. It examines each entry up to the
  -- threshold, also those that stay, so it is not used for many.
  if ARGV[5] == '1' and pending > 0 and pending <= 5000 then
    removed = removed + call('XTRIM', stream, 'MINID', '=', old(delivered), 'ACKED')
  end
end
length = length - removed

local forced = 0
-- Removes the oldest entries, which were delivered to every group, and counts those that were pending.
local function force(...)
  local from = first()
  local count = call('XTRIM', stream, ...)
  if count == 0 then return 0 end
  local to = first()
  local seen, unacknowledged = {}, 0
  for _, name in ipairs(named) do
    for _, entry in ipairs(call('XPENDING', stream, name, from, to and '(' .. to or '+', count)) do
      if not seen[entry[1]] then unacknowledged = unacknowledged + 1 end
      seen[entry[1]] = true
    end
  end
  forced = forced + math.min(unacknowledged, count)
  removed, length = removed + count, length - count
  return count
end

if length > most and not again then
  local over = math.min(length - most, step)
  if force('MINID', '~', delivered, 'LIMIT', over) == 0 then
    -- The first node has more entries than are to be removed, or undelivered ones begin in it.
    local count = #call('XRANGE', stream, '-', '(' .. delivered, 'COUNT', over)
    if count > 0 then
      force('MAXLEN', '=', length - count)
    else
      local gone = call('XTRIM', stream, 'MAXLEN', '=', length - over)
      forced, removed, length = forced + gone, removed + gone, length - gone
    end
  end
  again = length > most
end

-- A state that is gone stays gone: with a field of this script's it would look like one.
if forced > 0 and known[1] then before = call('HINCRBY', state, 'trimmed_unacknowledged', forced) end
return { 'OK', removed, forced, again and 1 or 0, before, length, slowest, missing }
