#!lua flags=allow-oom
-- A consumer lives. Its group is made where it is missing (a first start, or a new server).
-- KEYS samples, consumers
-- ARGV group, consumer
redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[2])
