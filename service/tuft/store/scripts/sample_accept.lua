-- Queue a sample operation with its pending future.
-- KEYS future, samples
-- ARGV digest, op, future, max_pending
-- Returns accepted | duplicate | conflict | full
local known = redis.call('HGET', KEYS[1], 'digest')
if known == ARGV[1] then return 'duplicate' end
if known then return 'conflict' end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[4]) then return 'full' end
redis.call('HSET', KEYS[1], 'record', ARGV[3], 'digest', ARGV[1])
redis.call('XADD', KEYS[2], '*', 'op', ARGV[2])
return 'accepted'
