#!lua flags=allow-oom
-- Take over a worker group, unless somebody else leads it whose time is not over. Epochs are times
-- (µs), so that none comes twice even where the store lost its memory of the last one (a server
-- without a disk, a replica that took over too early).
-- KEYS lease, holder
-- ARGV holder, ttl_ms, holder that is replaced (it has ended)
-- Returns the epoch, or nil
local held = redis.call('GET', KEYS[2])
if held and held ~= ARGV[1] and held ~= ARGV[3] then return false end
local current = redis.call('GET', KEYS[1])
if held == ARGV[1] and current then
  -- Asked once more: a network that lost packets may deliver the first request long after the
  -- second was granted, and must not end what that one got.
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  return current
end
local now = redis.call('TIME')
local epoch = now[1] * 1000000 + now[2]
epoch = math.max(epoch, tonumber(current or 0) + 1)
redis.call('SET', KEYS[1], string.format('%.0f', epoch))
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return redis.call('GET', KEYS[1])
