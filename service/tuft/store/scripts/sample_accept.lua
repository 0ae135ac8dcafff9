-- Queue a sample operation with its pending future, behind others of its tenant.
-- KEYS future, samples, waiting tenants, number waiting, wake, sample_counts
-- ARGV digest, op, future, max_pending, tenant, prefix of the tenants' queues, max_tenant
-- Returns accepted | duplicate | conflict | full | tenant_full
local known = redis.call('HGET', KEYS[1], 'digest')
if known == ARGV[1] then return 'duplicate' end
if known then return 'conflict' end
local waiting = tonumber(redis.call('GET', KEYS[4]) or 0)
if redis.call('XLEN', KEYS[2]) + waiting >= tonumber(ARGV[4]) then return 'full' end
local of_tenant = tonumber(redis.call('HGET', KEYS[6], ARGV[5]) or 0)
if of_tenant >= tonumber(ARGV[7]) then return 'tenant_full' end
redis.call('HINCRBY', KEYS[6], ARGV[5], 1)
redis.call('HSET', KEYS[1], 'record', ARGV[3], 'digest', ARGV[1])
-- Who has operations waiting stands among the tenants once.
if redis.call('RPUSH', ARGV[6] .. ARGV[5], ARGV[2]) == 1 then
  redis.call('RPUSH', KEYS[3], ARGV[5])
end
redis.call('INCR', KEYS[4])
redis.call('XADD', KEYS[5], 'MAXLEN', '~', 16, '*', 'new', 1)
return 'accepted'
