-- Add a session, forgetting old ones of the tenant where there are too many.
-- KEYS session, tenant_sessions, tenant_sessions_seen
-- ARGV session_id, record, created_at, now, max_sessions, quiet_s, forgotten_s,
--      prefixes of session, session_runs, session_samplers, sampler
-- Returns created | duplicate | conflict | full
local session, by_creation, by_heartbeat = unpack(KEYS)
local now, max_sessions = tonumber(ARGV[4]), tonumber(ARGV[5])

local known = redis.call('HGET', session, 'record')
if known == ARGV[2] then return 'duplicate' end
if known then return 'conflict' end

local function forget(id)
  for _, sampler in ipairs(redis.call('ZRANGE', ARGV[10] .. id, 0, -1)) do
    redis.call('DEL', ARGV[11] .. sampler)
  end
  redis.call('DEL', ARGV[8] .. id, ARGV[9] .. id, ARGV[10] .. id)
  redis.call('ZREM', by_creation, id)
  redis.call('ZREM', by_heartbeat, id)
end

-- A few at a time: a script must be short, and every creation comes by here.
local oldest = redis.call('ZRANGE', by_heartbeat, 0, 9, 'WITHSCORES')
for i = 1, #oldest, 2 do
  local silent = now - tonumber(oldest[i + 1])
  local too_many = redis.call('ZCARD', by_heartbeat) >= max_sessions
  if silent > tonumber(ARGV[7]) or (too_many and silent > tonumber(ARGV[6])) then
    forget(oldest[i])
  end
end
if redis.call('ZCARD', by_heartbeat) >= max_sessions then return 'full' end

redis.call('HSET', session, 'record', ARGV[2])
redis.call('ZADD', by_creation, ARGV[3], ARGV[1])
redis.call('ZADD', by_heartbeat, ARGV[4], ARGV[1])
return 'created'
