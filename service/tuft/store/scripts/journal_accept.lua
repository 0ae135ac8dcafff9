-- Append an operation to a run's journal.
-- KEYS run, entries, payloads, waiting, future, trimmed tombstone, tenant's pending tokens,
--      tenant_pending
-- ARGV run_id, seq, digest, entry, accepted_at, has_payload, payload, future, epoch,
--      proves_earlier, max_pending, window, stream_length, tokens, max_pending_tokens,
--      max_tenant_pending, max_behind_snapshot
-- Returns {accepted} | {duplicate} | {missing} | {not_live} | {stale, epoch}
--         | {refused, tombstone} | {conflict} | {too_far, cursor} | {full, pending}
--         | {tenant_full, pending} | {full_of_tokens, tokens pending} | {journal_full, behind}
local run, entries, payloads, waiting, future, trimmed_tombstone, pending_tokens = unpack(KEYS, 1, 7)
local tenant_pending = KEYS[8]
local run_id, digest, entry, accepted_at = ARGV[1], ARGV[3], ARGV[4], ARGV[5]
local seq, max_pending, window = tonumber(ARGV[2]), tonumber(ARGV[11]), tonumber(ARGV[12])

local state = redis.call('HMGET', run,
  'live', 'epoch', 'cursor', 'filled', 'top', 'trimmed', 'pending', 'work', 'index', 'covered')
if not state[1] then return {'missing'} end
if state[1] ~= '1' then return {'not_live'} end
if state[2] ~= ARGV[9] then return {'stale', state[2]} end
local cursor, filled, top = tonumber(state[3]), tonumber(state[4]), tonumber(state[5])
local trimmed, pending, work = tonumber(state[6]), tonumber(state[7]), state[8]

-- The identity was taken before.
local known = redis.call('HGET', entries, seq)
if known then
  local body = string.sub(known, 2)
  if string.sub(known, 1, 1) == 'T' then return {'refused', body} end
  if cjson.decode(body)['digest'] == digest then return {'duplicate'} end
  return {'conflict'}
end
if seq <= trimmed then
  -- The entry is gone; its future has the digest for as long as the result is kept.
  local tombstone = redis.call('GET', trimmed_tombstone)
  if tombstone then return {'refused', tombstone} end
  local done = redis.call('HGET', future, 'digest')
  if done and done ~= digest then return {'conflict'} end
  return {'duplicate'}
end

if seq > cursor + window then return {'too_far', cursor} end
local closes_gap = seq == filled + 1 and seq < top
if pending >= max_pending and not closes_gap then return {'full', pending} end
local of_tenant = tonumber(redis.call('GET', tenant_pending) or 0)
if of_tenant >= tonumber(ARGV[16]) and not closes_gap then return {'tenant_full', of_tenant} end
local behind = seq - tonumber(state[10]) - 1
if behind >= tonumber(ARGV[17]) and not closes_gap then
  -- Nothing else would make a trainer that has nothing to do take the snapshot that is missing.
  redis.call('XADD', work, 'MAXLEN', '~', ARGV[13], '*', 'id', run_id)
  return {'journal_full', behind}
end
local tokens = tonumber(ARGV[14])
local tokens_before = tonumber(redis.call('GET', pending_tokens) or '0')
local too_many = tokens_before > 0 and tokens_before + tokens > tonumber(ARGV[15])
if tokens > 0 and too_many and not closes_gap then return {'full_of_tokens', tokens_before} end

if ARGV[10] == '1' then
  for missing = filled + 1, seq - 1 do
    if redis.call('HEXISTS', entries, missing) == 0 then
      redis.call('HSET', entries, missing, 'T' .. cjson.encode({
        run_id = run_id, seq_id = missing, reason = 'never arrived', poisons = true, status = 400}))
    end
  end
end
if tokens > 0 then redis.call('INCRBY', pending_tokens, tokens) end
redis.call('HSET', entries, seq, entry)
if ARGV[6] == '1' then redis.call('HSET', payloads, seq, ARGV[7]) end
redis.call('HSET', future, 'record', ARGV[8], 'digest', digest)

-- `filled` moves over what stands there without a gap.
redis.call('ZADD', waiting, accepted_at, seq)
while redis.call('HEXISTS', entries, filled + 1) == 1 do
  filled = filled + 1
  redis.call('ZREM', waiting, filled)
end
redis.call('HSET', run, 'filled', filled, 'top', math.max(top, seq),
  'pending', pending + 1, 'last_request_at', accepted_at)
redis.call('INCR', tenant_pending)
redis.call('ZADD', state[9], accepted_at, run_id)
redis.call('XADD', work, 'MAXLEN', '~', ARGV[13], '*', 'id', run_id)
return {'accepted'}
