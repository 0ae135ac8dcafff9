#!lua flags=allow-oom
-- A consumer lives, and takes operations: one of each tenant in turn.
-- Its group is made where it is missing (a first start, or a new server).
-- KEYS samples, consumers, waiting tenants, number waiting
-- ARGV group, consumer, count, prefix of the tenants' queues
-- Returns {{entry_id, fields}, ...}
redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[2])
local count = tonumber(ARGV[3])
local taken = {}

local function take(number)
  local found = redis.call(
    'XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', number, 'STREAMS', KEYS[1], '>')
  if found then
    for _, entry in ipairs(found[1][2]) do table.insert(taken, entry) end
  end
end

if count <= 0 then return taken end
-- Normally nobody's: what is in the stream was taken when it was put there.
take(count)
local moved = 0
while #taken + moved < count do
  local tenant = redis.call('LPOP', KEYS[3])
  if not tenant then break end
  local queue = ARGV[4] .. tenant
  redis.call('XADD', KEYS[1], '*', 'op', redis.call('LPOP', queue))
  if redis.call('EXISTS', queue) == 1 then redis.call('RPUSH', KEYS[3], tenant) end
  moved = moved + 1
end
if moved > 0 then
  redis.call('DECRBY', KEYS[4], moved)
  take(moved)
end
return taken
