-- Record what a step submits, once: its plan, or where another attempt at it goes on.
-- KEYS entry, run (empty in a tenant's scope)
-- ARGV epoch, number of the attempt, plan object (attempt 0) or first operation, first seq_id
-- Returns {entry, fields and values} | {stale, epoch} | {no_run, ''} | {no_step, ''}
local entry, run = KEYS[1], KEYS[2]
local number, what, first_seq_id = tonumber(ARGV[2]), ARGV[3], ARGV[4]
if run ~= '' then
  local epoch = redis.call('HGET', run, 'epoch')
  if not epoch then return {'no_run', ''} end
  if epoch ~= ARGV[1] then return {'stale', epoch} end
end
local known = redis.call('HMGET', entry, 'state', 'plan_object', 'attempts')
if not known[1] then return {'no_step', ''} end

local recorded = false
if known[1] == 'started' and number == 0 and not known[2] then
  redis.call('HSET', entry, 'plan_object', what, 'first_seq_id', first_seq_id)
  recorded = true
elseif known[1] == 'started' and number > 0 and known[2] then
  local attempts = known[3] and cjson.decode(known[3]) or {}
  if #attempts == number - 1 then
    table.insert(attempts, {
      first_operation = tonumber(what), first_seq_id = tonumber(first_seq_id)})
    redis.call('HSET', entry, 'attempts', cjson.encode(attempts))
    recorded = true
  end
end
if recorded and run ~= '' then
  -- The step whose plan was the last one until now can submit no more of it in its place.
  local other = redis.call('HGET', run, 'step')
  if other and other ~= entry and redis.call('HGET', other, 'state') == 'started' then
    redis.call('HSETNX', other, 'overtaken_at', first_seq_id)
  end
  redis.call('HSET', run, 'step', entry)
  redis.call('HDEL', entry, 'overtaken_at')
end
return {'entry', redis.call('HGETALL', entry)}
