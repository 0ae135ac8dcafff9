-- Give a run's new writer the next epoch.
-- KEYS run
-- ARGV now, then the fields to answer with
-- Returns the fields; {} where there is no such run; {0} where it can't be trained any more
local live = redis.call('HGET', KEYS[1], 'live')
if not live then return {} end
if live ~= '1' then return {0} end
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'last_request_at', ARGV[1])
return redis.call('HMGET', KEYS[1], unpack(ARGV, 2))
