#!lua flags=allow-oom
-- Finish the operation after the cursor, with all its effects.
-- KEYS lease, run, entries, failures, future, results, tenant's pending tokens, deaths,
--      tenant_pending, kept_results, finished
-- ARGV epoch, seq, digest, request_id, future, has_body, body, ttl_ms, failure, stream_length,
--      tokens, run_id, max_kept, prefix of futures, field of finished,
--      number of effects, then for each: type of its key, number of words, words
-- Returns ok | lease | missing | cursor | why it is impossible
local lease, run, entries, failures, future, results, pending_tokens, deaths = unpack(KEYS, 1, 8)
local tenant_pending, kept_results, finished = KEYS[9], KEYS[10], KEYS[11]
local seq = tonumber(ARGV[2])

if redis.call('GET', lease) ~= ARGV[1] then return 'lease' end
local state = redis.call('HMGET', run, 'cursor', 'done_by', 'top', 'index')
if not state[1] then return 'missing' end
if tonumber(state[1]) == seq and state[2] == ARGV[1] then return 'ok' end
if tonumber(state[1]) ~= seq - 1 then return 'cursor' end
local entry = redis.call('HGET', entries, seq)
if not entry or string.sub(entry, 1, 1) ~= 'O' then return 'there is no operation to complete' end

-- Nothing is rolled back, so nothing may fail once writing has begun.
local commands, at = {}, 17
for _ = 1, tonumber(ARGV[16]) do
  local kind, length = ARGV[at], tonumber(ARGV[at + 1])
  local command = {unpack(ARGV, at + 2, at + 1 + length)}
  local there = redis.call('TYPE', command[2])['ok']
  if there ~= 'none' and there ~= kind then return 'an effect on a key of type ' .. there end
  table.insert(commands, command)
  at = at + 2 + length
end

redis.call('HSET', run, 'cursor', seq, 'done_by', ARGV[1])
redis.call('HINCRBY', run, 'pending', -1)
if redis.call('DECR', tenant_pending) <= 0 then redis.call('DEL', tenant_pending) end
if seq >= tonumber(state[3]) then redis.call('ZREM', state[4], ARGV[12]) end
if tonumber(ARGV[11]) > 0 and redis.call('DECRBY', pending_tokens, ARGV[11]) <= 0 then
  redis.call('DEL', pending_tokens)
end
redis.call('HSET', future, 'record', ARGV[5], 'digest', ARGV[3])
if ARGV[6] == '1' then redis.call('HSET', future, 'body', ARGV[7]) end
redis.call('PEXPIRE', future, ARGV[8])
redis.call('HDEL', deaths, seq)
if ARGV[9] ~= '' then redis.call('HSET', failures, seq, ARGV[9]) end
redis.call('HINCRBY', finished, ARGV[15], 1)
for _, command in ipairs(commands) do redis.call(unpack(command)) end
-- Two at a time, so that a limit that was lowered is reached, and no script is long.
redis.call('RPUSH', kept_results, ARGV[4])
for _ = 1, 2 do
  if redis.call('LLEN', kept_results) <= tonumber(ARGV[13]) then break end
  redis.call('DEL', ARGV[14] .. redis.call('LPOP', kept_results))
end
redis.call('XADD', results, 'MAXLEN', '~', ARGV[10], '*', 'id', ARGV[4])
return 'ok'
