-- Record something of a step, once.
-- KEYS entry, run (empty in a tenant's scope)
-- ARGV epoch, field that must not be there yet, then fields and values
-- Returns {entry, fields and values} | {stale, epoch} | {no_run, ''} | {no_step, ''}
local entry, run = KEYS[1], KEYS[2]
if run ~= '' then
  local epoch = redis.call('HGET', run, 'epoch')
  if not epoch then return {'no_run', ''} end
  if epoch ~= ARGV[1] then return {'stale', epoch} end
end
local known = redis.call('HMGET', entry, 'state', ARGV[2])
if not known[1] then return {'no_step', ''} end
if known[1] == 'started' and not known[2] then redis.call('HSET', entry, unpack(ARGV, 3)) end
return {'entry', redis.call('HGETALL', entry)}
