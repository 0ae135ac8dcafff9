#!lua flags=allow-oom
-- Take over a worker group. Epochs are times (µs), so that none comes twice even where the store lost
-- its memory of the last one (a server without a disk, a replica that took over too early).
-- KEYS lease
-- Returns the epoch
local now = redis.call('TIME')
local epoch = now[1] * 1000000 + now[2]
epoch = math.max(epoch, tonumber(redis.call('GET', KEYS[1]) or 0) + 1)
redis.call('SET', KEYS[1], string.format('%.0f', epoch))
return redis.call('GET', KEYS[1])
