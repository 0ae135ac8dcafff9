#!lua flags=no-writes,allow-oom
-- What a run's journal has after the cursor, and the first gap that operations wait behind.
-- KEYS run, entries, payloads, waiting
-- Returns {cursor, epoch, entry, payload, missing, accepted_at}, or {} where there is no such run;
--         entry and payload are nil where there is none, the last two where nothing waits
local state = redis.call('HMGET', KEYS[1], 'cursor', 'epoch', 'filled')
if not state[1] then return {} end
local seq = tonumber(state[1]) + 1
local entry = redis.call('HGET', KEYS[2], seq)
local payload = entry and redis.call('HGET', KEYS[3], seq)
local oldest = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
if not oldest[1] then return {state[1], state[2], entry, payload, false, false} end
return {state[1], state[2], entry, payload, state[3] + 1, oldest[2]}
