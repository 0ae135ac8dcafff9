#!lua flags=no-writes,allow-oom
-- Which seq_id is missing, and since when others wait for it.
-- KEYS run, waiting
-- Returns {missing, accepted_at}, or {} where nothing waits
local oldest = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if not oldest[1] then return {} end
return {redis.call('HGET', KEYS[1], 'filled') + 1, oldest[2]}
