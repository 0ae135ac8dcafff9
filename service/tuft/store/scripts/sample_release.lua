#!lua flags=allow-oom
-- A consumer that ends hands back what it did not begin, before all others of its tenant; what it
-- goes on with it may do under another name, so that its successor has its own.
-- KEYS samples, consumers, waiting tenants, number waiting, wake
-- ARGV group, consumer, new name, count, prefix of the tenants' queues,
--      entry ids that it goes on with...
-- Returns the number handed back
local samples, consumers, tenants, waiting, wake = unpack(KEYS)
local group, me, heir = unpack(ARGV, 1, 3)
redis.pcall('XGROUP', 'CREATE', samples, group, '0', 'MKSTREAM')
local now = redis.call('TIME')[1]
redis.call('ZADD', consumers, now, heir)
local keep = {}
for i = 6, #ARGV do keep[ARGV[i]] = true end
local back = 0

local function hand_back(id)
  local entry = redis.call('XRANGE', samples, id, id)[1]
  redis.call('XACK', samples, group, id)
  if not entry then return end
  local op = entry[2][2]
  local tenant = cjson.decode(op)['tenant']
  redis.call('XDEL', samples, id)
  if redis.call('LPUSH', ARGV[5] .. tenant, op) == 1 then redis.call('RPUSH', tenants, tenant) end
  redis.call('INCR', waiting)
end

local function leave_to_anybody(id, deliveries)
  -- It was there when a consumer died, which the queue would forget. One that was last heard of
  -- long ago has it: whoever looks for such takes it at once.
  redis.call('ZADD', consumers, 0, 'released')
  redis.call('XCLAIM', samples, group, 'released', 0, id, 'RETRYCOUNT', deliveries - 1, 'JUSTID')
end

local found = redis.call('XPENDING', samples, group, '-', '+', ARGV[4], me)
-- From the last to the first, so that the first is the first again.
for i = #found, 1, -1 do
  local id, deliveries = found[i][1], found[i][4]
  if keep[id] then
    if heir ~= me then redis.call('XCLAIM', samples, group, heir, 0, id, 'JUSTID') end
  elseif deliveries == 1 then
    hand_back(id)
    back = back + 1
  else
    leave_to_anybody(id, deliveries)
    back = back + 1
  end
end
if back > 0 then redis.call('XADD', wake, 'MAXLEN', '~', 16, '*', 'new', 1) end
return back
