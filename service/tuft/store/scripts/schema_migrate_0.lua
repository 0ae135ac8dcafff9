#!lua flags=allow-oom
-- Bring a store from version 0 to 1, unless another process did: index the runs with something
-- pending, and count what tenants have pending.
-- Names of keys stand here as they were then: they must not change with `keys.py`.
-- KEYS schema, models
-- ARGV 1, the version that it is then
-- Returns new (there was nothing) | what was done
if redis.call('EXISTS', KEYS[1]) == 1 then return 'new' end
local runs, of_tenants = 0, {}

for _, model in ipairs(redis.call('HKEYS', KEYS[2])) do
  local index = 'tuft:pending:' .. model
  for _, run_id in ipairs(redis.call('SMEMBERS', 'tuft:model-live-runs:' .. model)) do
    local run = 'tuft:run:' .. run_id
    local state = redis.call(
      'HMGET', run, 'cursor', 'top', 'pending', 'last_request_at', 'snapshot', 'record')
    local covered = state[5] and cjson.decode(state[5])['seq_id'] or -1
    redis.call('HSET', run, 'index', index, 'covered', covered)
    if tonumber(state[2]) > tonumber(state[1]) then redis.call('ZADD', index, state[4], run_id) end
    local tenant = cjson.decode(state[6])['tenant']
    of_tenants[tenant] = (of_tenants[tenant] or 0) + tonumber(state[3])
    runs = runs + 1
  end

  local counts = {}
  for _, tenant in ipairs(redis.call('LRANGE', 'tuft:sample-tenants:' .. model, 0, -1)) do
    local queue = string.format('tuft:sample-queue:%d:%s:%s', #model, model, tenant)
    counts[tenant] = (counts[tenant] or 0) + redis.call('LLEN', queue)
  end
  for _, entry in ipairs(redis.call('XRANGE', 'tuft:samples:' .. model, '-', '+')) do
    local tenant = cjson.decode(entry[2][2])['tenant']
    counts[tenant] = (counts[tenant] or 0) + 1
  end
    for tenant, count in pairs(counts) do
    redis.call('HSET', 'tuft:sample-counts:' .. model, tenant, count)
  end
end

for tenant, pending in pairs(of_tenants) do
  if pending > 0 then redis.call('SET', 'tuft:tenant-pending:' .. tenant, pending) end
end
redis.call('SET', KEYS[1], ARGV[1])
if runs == 0 then return 'new' end
return string.format('%d training runs', runs)
