-- Create a run: record, journal entry 0, its future, all indexes, and wake the trainer.
-- KEYS run, entries, future, tenant_runs, tenant_live, session_runs, model_live, work,
--      pending_runs, tenant_pending
-- ARGV run_id, record, created_at, entry, digest, accepted_at, future, max_runs, stream_length
-- Returns created | duplicate | conflict | too_many
local run, entries, future, tenant_runs, tenant_live, session_runs, model_live, work = unpack(KEYS, 1, 8)
local pending_runs, tenant_pending = KEYS[9], KEYS[10]
local run_id, record, created_at, entry, digest, accepted_at = unpack(ARGV, 1, 6)
local future_record, max_runs, stream_length = ARGV[7], tonumber(ARGV[8]), ARGV[9]

local known = redis.call('HMGET', run, 'live', 'digest')
if known[1] then
  if known[1] == '1' and known[2] == digest then return 'duplicate' end
  return 'conflict'
end
if redis.call('SCARD', tenant_live) >= max_runs then return 'too_many' end

redis.call('HSET', run,
  'record', record, 'live', 1, 'digest', digest, 'epoch', 0, 'work', work, 'index', pending_runs,
  'cursor', -1, 'filled', 0, 'top', 0, 'covered', -1, 'trimmed', -1, 'pending', 1,
  'last_request_at', accepted_at)
redis.call('HSET', entries, 0, entry)
redis.call('HSET', future, 'record', future_record, 'digest', digest)
redis.call('ZADD', tenant_runs, created_at, run_id)
redis.call('ZADD', session_runs, created_at, run_id)
redis.call('SADD', tenant_live, run_id)
redis.call('SADD', model_live, run_id)
redis.call('ZADD', pending_runs, accepted_at, run_id)
redis.call('INCR', tenant_pending)
redis.call('XADD', work, 'MAXLEN', '~', stream_length, '*', 'id', run_id)
return 'created'
