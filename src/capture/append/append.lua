#!lua
-- Appends a batch by compare-and-set: each item exactly once, even if it is sent several times or by two instances.
--
-- The batch claims: these are all events after `prev` up to `last`, across `epochs`. Only the position in the state
-- decides what is stored already, never the streams' content, so trimming and deleting entries is harmless. Entries,
-- position, dead letters, gap record and ledger are written in this one step: no crash separates them.
--
-- KEYS  1  state         hash
--       2  gaps          stream
--       3  dead letters  stream
--       4  made streams  set, the names of the streams that the template made
--       …  the batch's streams
-- ARGV  1  revision      newer ones compare higher
--       2  prev          the position before the batch; '-' if nothing was stored before, and a window's epoch alone
--                        if the state stands inside that window
--       3  last          the position of the last item
--       4  epochs        those that [prev, last] spans, ascending: each 32 bytes and a space
--       5  complete until  milliseconds since 1970, for the record only
--       6  numbering     two characters and how the batch numbers: '1.' streams come from a template, '.h' epochs are
--                        a source's histories; batches of release 0.1.0 do not say how they number
--       7  maxlen        '' without a limit
--       8  max streams   that the template may make
--       9  g             how many groups follow, and then the groups
--       …  gap           '0', or '1' and a gap between prev and the first item:
--                        to, started_at, ended_at, cause, detail, reason, dropped
--       …  positions     22 bytes an item: index in epochs (2), ordinal (20)
--       …  runs          16 bytes a run: items (6), target (5), arguments an item (5)
--                        target 0: dead letter; 99998: filtered; 99999: anchor; else KEYS[4 + target]
--       …  the items' arguments
local state, revision, prev, last, epochs = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local sub, pcall, call = string.sub, redis.pcall, redis.call

local known = call('HMGET', state, 'position', 'revision', 'next', 'numbering')
local pos = known[1] or '-'
if known[2] and revision < known[2] then return { 'OUTDATED' } end
if known[3] then
  -- Another configuration begins at an anchor that it has announced: its id, a space, its revision. Items before it,
  -- and the anchor itself, are appended under this one.
  local anchor, by = sub(known[3], 1, 16), sub(known[3], 18)
  if revision >= by then
    call('HDEL', state, 'next')
  elseif string.find(epochs, anchor, 17, true) and sub(last, 17) ~= anchor .. '-00000000000000000000' then
    return { 'OUTDATED' }
  end
end

local groups, at = tonumber(ARGV[9]), 10
local first_group = at
at = at + groups
local gap
if ARGV[at] == '1' then
  gap = at + 1
  at = at + 8
else
  at = at + 1
end
local positions, runs = ARGV[at], ARGV[at + 1]
at = at + 2

-- The index of the epoch of a position in `epochs`, as the items' positions carry it.
local function index_of(position)
  local found = string.find(epochs, sub(position, 1, 32), 1, true)
  return found and string.format('%02d', (found - 1) / 33)
end

-- Inside one epoch two configurations may count different messages: only at its anchor they agree.
local numbering = sub(ARGV[6], 4)
local counted = known[4] or ''
if pos ~= '-' and numbering ~= counted and numbering ~= '' and counted ~= '' and sub(pos, 33) ~= '-00000000000000000000'
  and string.find(epochs, sub(pos, 1, 32), 1, true) then
  return { 'FOREIGN', pos, counted }
end

local skip = 0
if pos ~= prev then
  local index = pos ~= '-' and index_of(pos)
  if pos == '-' or pos < prev then
    return { 'GAP', pos }
  elseif pos >= last then
    local passed = call('HMGET', state, 'epochs', 'gap_spans')
    if string.find(passed[1] or '', sub(last, 1, 32), 1, true) then
      -- For a batch within one epoch its last item decides.
      return { 'DUPLICATE', pos, passed[2] or '', #epochs > 33 and passed[1] or '' }
    end
    return { 'STALE', pos }
  elseif gap and pos < ARGV[gap] then
    -- Further than the sender thought, in whatever epoch: the gap begins here.
    return { 'GAP', pos }
  elseif not index then
    return { 'STALE', pos }
  end
  local reached = index .. sub(pos, 34)
  if prev == '-' and reached < sub(positions, 1, 22) then
    -- Another instance has stored something by now. The sender did not read what lies between that and its first item.
    return { 'GAP', pos }
  end
  while skip * 22 < #positions and sub(positions, skip * 22 + 1, skip * 22 + 22) <= reached do
    skip = skip + 1
  end
end

-- The text of an error of a command on a key. One of another type is named, since the server does not say which it is.
local function named(err, key)
  return sub(err, 1, 9) == 'WRONGTYPE' and "WRONGTYPE the key '" .. key .. "' has another type" or err
end

-- Errors that could come after the first entry are provoked before it: an error in the middle would leave entries
-- without their position, and every retry would repeat them.
local fails_over = pos ~= '-' and sub(ARGV[6], 2, 2) == 'h' and sub(pos, 1, 32) ~= sub(last, 1, 32)
if fails_over or gap and pos == prev then
  local records = pcall('XLEN', KEYS[2])
  if type(records) == 'table' and records.err then return { err = named(records.err, KEYS[2]) } end
end
-- An ordered stop has left the position at which it ended. Nobody stood there and could have continued since.
local planned = gap and pos == prev and ARGV[gap + 3] == 'restart' and call('HGET', state, 'stopped') == pos
call('HSET', state, 'revision', revision, 'at', ARGV[5])

local templated, maxlen = sub(ARGV[6], 1, 1) == '1', ARGV[7]
-- The error that stops the call before the current item.
local failure

-- Number of existing streams that the template made. Deleted streams are removed from the set only when max_streams is
-- reached, and once a call, since each stream is asked.
local looked
local function streams_made()
  local count = call('SCARD', KEYS[4])
  if count >= tonumber(ARGV[8]) and not looked then
    looked = true
    for _, name in ipairs(call('SMEMBERS', KEYS[4])) do
      local about = pcall('XINFO', 'GROUPS', name)
      if about.err and string.find(about.err, 'no such key', 1, true) then
        count = count - call('SREM', KEYS[4], name)
      end
    end
  end
  return count
end

-- The first entry of a stream that does not exist: groups start at 0, so that no entry is missed.
local function first_entry(key, from, to)
  if templated then
    local made = pcall('SISMEMBER', KEYS[4], key)
    if type(made) == 'table' then
      failure = named(made.err, KEYS[4])
      return made
    elseif made == 0 then
      if streams_made() >= tonumber(ARGV[8]) then
        return { err = 'TOOMANYSTREAMS the template has made ' .. ARGV[8] .. ' streams: raise max_streams or change it' }
      end
      call('SADD', KEYS[4], key)
    end
  end
  for g = first_group, first_group + groups - 1 do
    local made = pcall('XGROUP', 'CREATE', key, ARGV[g], '0', 'MKSTREAM')
    if made.err and sub(made.err, 1, 9) ~= 'BUSYGROUP' then return made end
  end
  return pcall('XADD', key, '*', unpack(ARGV, from, to))
end

local rejected = 0
local function dead_letter(position, ...)
  local id = pcall('XADD', KEYS[3], 'MAXLEN', '~', 10000, '*', 'position', position, ...)
  if type(id) == 'table' then
    failure = named(id.err, KEYS[3])
  else
    rejected = rejected + 1
  end
end

local reasons = { WRONGTYPE = 'wrong_type', TOOMANYSTREAMS = 'too_many_streams' }
local item, appended, filtered = 0, 0, 0
local function position_of(i)
  local start = (i - 1) * 22
  local epoch = tonumber(sub(positions, start + 1, start + 2)) * 33
  return sub(epochs, epoch + 1, epoch + 32) .. '-' .. sub(positions, start + 3, start + 22)
end

for r = 1, #runs, 16 do
  local count, target, arguments = tonumber(sub(runs, r, r + 5)), tonumber(sub(runs, r + 6, r + 10)), tonumber(sub(runs, r + 11, r + 15))
  local key = KEYS[4 + target]
  for c = 1, count do
    if item >= skip then
      local to = at + arguments - 1
      if target == 0 then
        dead_letter(position_of(item + 1), unpack(ARGV, at, to))
      elseif target == 99998 then
        filtered = filtered + 1
      elseif target ~= 99999 then
        local id
        if c == count and maxlen ~= '' then
          -- Once a run is often enough: trimming goes by whole nodes of the stream anyway.
          id = pcall('XADD', key, 'NOMKSTREAM', 'MAXLEN', '~', maxlen, '*', unpack(ARGV, at, to))
        else
          id = pcall('XADD', key, 'NOMKSTREAM', '*', unpack(ARGV, at, to))
        end
        if not id then id = first_entry(key, at, to) end
        if type(id) == 'table' and id.err then
          if not templated then
            failure = named(id.err, key)
          elseif not failure then
            dead_letter(position_of(item + 1), 'reason', reasons[string.match(id.err, '^%S*')] or 'refused',
              'detail', id.err, 'stream', key, unpack(ARGV, at, to))
          end
        else
          appended = appended + 1
        end
      end
      if failure then break end
    end
    item = item + 1
    at = at + arguments
  end
  if failure then break end
end

local reached = last
if failure then
  reached = item > skip and position_of(item) or pos
end
-- The state also keeps the latest gaps: an item inside one is no duplicate. If an anchor ends a gap, that is the end of
-- a command of the replication stream, which may be a message: it was not stored either.
local begins_with_anchor = tonumber(sub(runs, 7, 11)) == 99999
local function remember_gap(from, to)
  if begins_with_anchor and to == position_of(1) then
    to = sub(to, 1, 33) .. string.format('%020.0f', tonumber(sub(to, 34)) + 1)
  end
  local gaps = (call('HGET', state, 'gap_spans') or '') .. string.format('%53s', from) .. '>' .. to .. ' '
  call('HSET', state, 'gap_spans', sub(gaps, -108 * 8))
end
local function record_gap(from, to, ...)
  call('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'from', from, 'to', to, ...)
  remember_gap(from, to)
end

-- Messages of another instance from before the very first item were never stored.
if pos == '-' and not gap and reached ~= pos then remember_gap('-', position_of(1)) end
if gap and pos == prev and reached ~= pos then
  record_gap(prev, ARGV[gap], 'started_at', ARGV[gap + 1], 'ended_at', ARGV[gap + 2], 'cause', ARGV[gap + 3],
    'detail', ARGV[gap + 4], 'dropped', ARGV[gap + 6], unpack(planned and { 'planned', '1' } or {}))
  call('HINCRBY', state, 'gaps', 1)
  call('HSET', state, 'gap_at', ARGV[gap + 2])
  local dropped = tonumber(ARGV[gap + 6])
  if dropped > 0 then
    call('HINCRBY', state, 'dropped:' .. ARGV[gap + 5], dropped)
    call('HINCRBY', state, 'received', dropped)
  end
end
if fails_over and sub(pos, 1, 32) ~= sub(reached, 1, 32) then
  -- Another server took the source's place: what only the one before had is lost.
  local before = pos
  for i = skip + 1, item do
    local position = position_of(i)
    if sub(before, 1, 32) ~= sub(position, 1, 32) and not (gap and before == prev) then
      record_gap(before, position, 'started_at', ARGV[5], 'ended_at', ARGV[5], 'cause', 'failover', 'detail',
        'another server took the source\'s place: what only the one before had is lost', 'dropped', '0')
    end
    before = position
  end
end
if reached ~= pos then
  call('HSET', state, 'position', reached)
  if numbering ~= counted then call('HSET', state, 'numbering', numbering) end
  if pos == '-' or sub(pos, 1, 32) ~= sub(reached, 1, 32) then
    -- Which epochs the state has passed: an item of another epoch is no duplicate.
    local passed = call('HGET', state, 'epochs') or ''
    for e = 1, #epochs, 33 do
      local epoch = sub(epochs, e, e + 32)
      if sub(epoch, 1, 32) <= sub(reached, 1, 32) and not string.find(passed, epoch, 1, true) then
        passed = passed .. epoch
      end
    end
    call('HSET', state, 'epochs', sub(passed, -33 * 256), 'format', '1')
  end
end
if appended > 0 then call('HINCRBY', state, 'appended', appended) end
if rejected > 0 then call('HINCRBY', state, 'rejected', rejected) end
if filtered > 0 then call('HINCRBY', state, 'filtered', filtered) end
if appended + rejected + filtered > 0 then
  call('HINCRBY', state, 'received', appended + rejected + filtered)
end
if failure then return { 'STOPPED', reached, appended, rejected, filtered, failure } end
if skip > 0 then return { 'OK', reached, appended, rejected, filtered, call('HGET', state, 'gap_spans') or '' } end
return { 'OK', reached, appended, rejected, filtered }
