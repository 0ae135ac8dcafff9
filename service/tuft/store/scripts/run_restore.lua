-- Index a run of which only checkpoints are left.
-- KEYS run, tenant_runs
-- ARGV run_id, record, created_at
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1],
  'record', ARGV[2], 'live', 0, 'epoch', 0,
  'cursor', -1, 'filled', -1, 'top', -1, 'trimmed', -1, 'pending', 0,
  'last_request_at', ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return 1
