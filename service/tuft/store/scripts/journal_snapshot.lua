#!lua flags=allow-oom
-- Record a run's recovery point; the newest stays.
-- KEYS lease, run
-- ARGV epoch, seq, snapshot
-- Returns ok | lease | missing | why it is impossible
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lease' end
local state = redis.call('HMGET', KEYS[2], 'cursor', 'snapshot')
if not state[1] then return 'missing' end
local seq = tonumber(ARGV[2])
if seq > tonumber(state[1]) then return 'the snapshot is ahead of cursor ' .. state[1] end
if state[2] and cjson.decode(state[2])['seq_id'] > seq then return 'ok' end
redis.call('HSET', KEYS[2], 'snapshot', ARGV[3])
return 'ok'
