#!lua flags=allow-oom
-- A worker says what it is and does.
-- KEYS workers, what this worker said
-- ARGV worker_id, status, ttl_ms
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('SADD', KEYS[1], ARGV[1])
