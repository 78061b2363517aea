#!lua flags=allow-oom
-- Gives a history of the source its epoch: always the same one, for every instance.
--
-- Replication ids do not order, so the state numbers them as they appear. An id that appears again after another (a
-- replaced server is master again) gets a new number: positions never go back. The epoch of the current history is
-- taken from the checkpoint's position, because a failover may have lost or changed the field `histories`.
--
-- KEYS  1  state    hash
-- ARGV  1  history  40 digits
--       2  lowest   the lowest epoch it may have
--       3  wished   the epoch it gets if none is higher
--
-- Returns all histories, each with its epoch behind '=' and a space.
local known = redis.call('HMGET', KEYS[1], 'histories', 'position')
local all, number = known[1] or '', tonumber(ARGV[3])
local found = tonumber(string.match(all, ARGV[1] .. '=(%d+) ') or '')
local lowest = tonumber(ARGV[2])
local stands_in = known[2] and tonumber(string.sub(known[2], 1, 15))
if stands_in and stands_in >= lowest and string.sub(known[2], 17, 32) == string.sub(ARGV[1], 1, 16) then
  if found == stands_in then return all end
  number = stands_in
elseif found and found >= lowest then
  return all
else
  if stands_in then number = math.max(number, stands_in + 1) end
  for other in string.gmatch(all, '=(%d+) ') do number = math.max(number, tonumber(other) + 1) end
end
if found then all = string.gsub(all, ARGV[1] .. '=%d+ ', '') end
all = string.sub(all .. ARGV[1] .. '=' .. string.format('%015.0f', number) .. ' ', -57 * 32)
redis.call('HSET', KEYS[1], 'histories', all)
return all
