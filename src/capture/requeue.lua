#!lua
-- Appends a dead letter's entry and removes the letter, in one step.
--
-- KEYS  1  dead letters  stream
--       2  stream
--       3  made streams  set, the names of the streams that the template made
-- ARGV  1  id            the letter's
--       2  templated     '1' if the stream's name comes from a template
--       3  max streams   that the template may make
--       4  g             how many groups follow, and then the groups
--       …  the entry's fields
--
-- Returns { 0 } if there is no such letter, { 1, id of the entry }, or { 2, error }: then the letter stays.
local letters, stream, made = KEYS[1], KEYS[2], KEYS[3]
if #redis.call('XRANGE', letters, ARGV[1], ARGV[1]) == 0 then return { 0 } end
-- No entry has this id. A missing right is noticed here; after the entry is added, it would cause a repetition.
redis.call('XDEL', letters, '0-0')

local groups = tonumber(ARGV[4])
local function add(...)
  return redis.pcall('XADD', stream, ...)
end

-- As for a captured message: a deleted stream of the template is forgotten, once the others are too many.
local function streams_made()
  local count = redis.call('SCARD', made)
  if count >= tonumber(ARGV[3]) then
    for _, name in ipairs(redis.call('SMEMBERS', made)) do
      local about = redis.pcall('XINFO', 'GROUPS', name)
      if about.err and string.find(about.err, 'no such key', 1, true) then
        count = count - redis.call('SREM', made, name)
      end
    end
  end
  return count
end

local id = add('NOMKSTREAM', '*', unpack(ARGV, 5 + groups))
if not id then
  if ARGV[2] == '1' and redis.call('SISMEMBER', made, stream) == 0 then
    if streams_made() >= tonumber(ARGV[3]) then
      return { 2, 'the template has made ' .. ARGV[3] .. ' streams already: raise max_streams' }
    end
    redis.call('SADD', made, stream)
  end
  -- The first entry of a new stream: groups start at 0, as when it is captured.
  for g = 5, 4 + groups do
    redis.call('XGROUP', 'CREATE', stream, ARGV[g], '0', 'MKSTREAM')
  end
  id = add('*', unpack(ARGV, 5 + groups))
end
if id.err then return { 2, id.err } end
redis.call('XDEL', letters, ARGV[1])
return { 1, id }
