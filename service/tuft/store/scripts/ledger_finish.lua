-- Finish a step, once, and have its plan removed.
-- KEYS entry, run (empty in a tenant's scope), disposal
-- ARGV epoch, result, now, what to dispose of (may be empty)
-- Returns {entry, fields and values} | {stale, epoch} | {no_run, ''} | {no_step, ''}
local entry, run, disposal = unpack(KEYS)
if run ~= '' then
  local epoch = redis.call('HGET', run, 'epoch')
  if not epoch then return {'no_run', ''} end
  if epoch ~= ARGV[1] then return {'stale', epoch} end
end
local state = redis.call('HGET', entry, 'state')
if not state then return {'no_step', ''} end
if state == 'started' then
  redis.call('HSET', entry, 'state', 'finished', 'result', ARGV[2], 'finished_at', ARGV[3])
  if ARGV[4] ~= '' then
    redis.call('ZADD', disposal, ARGV[3], ARGV[4])
    redis.call('HDEL', entry, 'plan_object', 'attempts', 'overtaken_at')
  end
end
return {'entry', redis.call('HGETALL', entry)}
