#!lua flags=allow-oom
-- Take what this consumer has left undone, and what consumers that are gone have.
-- KEYS samples, consumers
-- ARGV group, consumer, gone_s, count, entry ids not to touch...
-- Returns {{entry_id, fields, deliveries}, ...}
local samples, consumers = KEYS[1], KEYS[2]
local group, me = ARGV[1], ARGV[2]
redis.pcall('XGROUP', 'CREATE', samples, group, '0', 'MKSTREAM')
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', consumers, now, me)

local holding = {}
for i = 5, #ARGV do holding[ARGV[i]] = true end
local taken = {}

local function take_from(consumer)
  for _, pending in ipairs(redis.call('XPENDING', samples, group, '-', '+', ARGV[4], consumer)) do
    local id = pending[1]
    if not holding[id] then
      local entry = redis.call('XCLAIM', samples, group, me, 0, id)[1]
      if entry then table.insert(taken, {entry[1], entry[2], pending[4] + 1}) end
    end
  end
end

take_from(me)
for _, other in ipairs(redis.call('ZRANGEBYSCORE', consumers, '-inf', now - tonumber(ARGV[3]))) do
  if other ~= me then
    take_from(other)
    if #redis.call('XPENDING', samples, group, '-', '+', 1, other) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', samples, group, other)
      redis.call('ZREM', consumers, other)
    end
  end
end
return taken
