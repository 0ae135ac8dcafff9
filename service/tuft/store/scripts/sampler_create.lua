-- Add a sampler to its session.
-- KEYS sampler, session_samplers
-- ARGV sampler_id, record, created_at, digest
-- Returns created | duplicate | conflict
local known = redis.call('HMGET', KEYS[1], 'record', 'digest')
if known[1] then
  if known[2] == ARGV[4] then return 'duplicate' end
  return 'conflict'
end
redis.call('HSET', KEYS[1], 'record', ARGV[2], 'digest', ARGV[4])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return 'created'
