#!lua flags=allow-oom
-- The group's leader lives. A lease whose time was over is its again where nobody took it.
-- KEYS lease, holder
-- ARGV epoch, holder, ttl_ms
-- Returns 1, or 0 where the lease is another's
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
