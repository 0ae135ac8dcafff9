-- Put a tombstone where nothing is.
-- KEYS run, entries, payloads, waiting
-- ARGV run_id, seq, entry, epoch, window, stream_length
-- Returns {refused} | {taken} | {missing} | {stale, epoch}
local run, entries, waiting = KEYS[1], KEYS[2], KEYS[4]
local seq, window = tonumber(ARGV[2]), tonumber(ARGV[5])

local state = redis.call('HMGET', run, 'live', 'epoch', 'cursor', 'filled', 'top', 'work', 'index')
if not state[1] then return {'missing'} end
if state[1] ~= '1' then return {'taken'} end
if state[2] ~= ARGV[4] then return {'stale', state[2]} end
local cursor, filled, top = tonumber(state[3]), tonumber(state[4]), tonumber(state[5])
if seq <= cursor or seq > cursor + window then return {'taken'} end
if redis.call('HSETNX', entries, seq, ARGV[3]) == 0 then return {'taken'} end

while redis.call('HEXISTS', entries, filled + 1) == 1 do
  filled = filled + 1
  redis.call('ZREM', waiting, filled)
end
redis.call('HSET', run, 'filled', filled, 'top', math.max(top, seq))
redis.call('ZADD', state[7], 'NX', redis.call('TIME')[1], ARGV[1])
redis.call('XADD', state[6], 'MAXLEN', '~', ARGV[6], '*', 'id', ARGV[1])
return {'refused'}
