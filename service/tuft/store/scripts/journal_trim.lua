#!lua flags=allow-oom
-- Forget entries that a snapshot covers. Tombstones still answer repeats for a while.
-- KEYS lease, run, entries, payloads, failures, prefix of trimmed tombstones
-- ARGV epoch, up_to, tombstone_ttl_s
-- Returns ok | lease | missing | why it is impossible
local lease, run, entries, payloads, failures, prefix = unpack(KEYS)
local up_to = tonumber(ARGV[2])
if redis.call('GET', lease) ~= ARGV[1] then return 'lease' end
local state = redis.call('HMGET', run, 'trimmed', 'snapshot')
if not state[1] then return 'missing' end
local trimmed = tonumber(state[1])
if up_to <= trimmed then return 'ok' end
if not state[2] then return 'no snapshot covers what would be trimmed' end
local covered = cjson.decode(state[2])['seq_id']
if up_to > covered then return 'only entries up to ' .. covered .. ' are covered by a snapshot' end

for seq = trimmed + 1, up_to do
  local entry = redis.call('HGET', entries, seq)
  if entry and string.sub(entry, 1, 1) == 'T' then
    redis.call('SET', prefix .. string.format('%d', seq), string.sub(entry, 2), 'EX', ARGV[3])
  end
  redis.call('HDEL', entries, seq)
  redis.call('HDEL', payloads, seq)
  redis.call('HDEL', failures, seq)
end
redis.call('HSET', run, 'trimmed', up_to)
return 'ok'
