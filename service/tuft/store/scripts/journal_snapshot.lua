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
local newest = state[2] and cjson.decode(state[2])['seq_id']
if newest and newest > seq then return 'ok' end
-- The one before is for the case that this one turns out to be damaged.
if newest and newest < seq then redis.call('HSET', KEYS[2], 'snapshot_before', state[2]) end
redis.call('HSET', KEYS[2], 'snapshot', ARGV[3], 'covered', seq)
return 'ok'
