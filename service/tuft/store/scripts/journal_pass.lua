#!lua flags=allow-oom
-- Move the cursor over the tombstone that follows it.
-- KEYS lease, run, entries
-- ARGV epoch, seq, run_id
-- Returns ok | lease | missing | cursor | why it is impossible
local seq = tonumber(ARGV[2])
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lease' end
local state = redis.call('HMGET', KEYS[2], 'cursor', 'done_by', 'top', 'index')
if not state[1] then return 'missing' end
if tonumber(state[1]) == seq and state[2] == ARGV[1] then return 'ok' end
if tonumber(state[1]) ~= seq - 1 then return 'cursor' end
local entry = redis.call('HGET', KEYS[3], seq)
if not entry or string.sub(entry, 1, 1) ~= 'T' then return 'there is no tombstone to pass' end
redis.call('HSET', KEYS[2], 'cursor', seq, 'done_by', ARGV[1])
if seq >= tonumber(state[3]) then redis.call('ZREM', state[4], ARGV[3]) end
return 'ok'
