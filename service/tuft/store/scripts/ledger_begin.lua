-- Begin a step, or find it.
-- KEYS entry, run (empty in a tenant's scope), index
-- ARGV epoch, max_entries, step_key, prefix of entries, now, then fields and values
-- Returns {entry, fields and values} | {stale, epoch} | {no_run, ''}
local entry, run, index = unpack(KEYS)
if run ~= '' then
  local epoch = redis.call('HGET', run, 'epoch')
  if not epoch then return {'no_run', ''} end
  if epoch ~= ARGV[1] then return {'stale', epoch} end
end
if redis.call('EXISTS', entry) == 0 then
  redis.call('HSET', entry, unpack(ARGV, 6))
  redis.call('ZADD', index, ARGV[5], ARGV[3])
  if redis.call('ZCARD', index) > tonumber(ARGV[2]) then
    -- Steps that never ended may be run again, so finished ones go first.
    local oldest = redis.call('ZRANGE', index, 0, 99)
    local going = oldest[1]
    for _, key in ipairs(oldest) do
      if redis.call('HGET', ARGV[4] .. key, 'state') == 'finished' then
        going = key
        break
      end
    end
    redis.call('DEL', ARGV[4] .. going)
    redis.call('ZREM', index, going)
  end
end
return {'entry', redis.call('HGETALL', entry)}
