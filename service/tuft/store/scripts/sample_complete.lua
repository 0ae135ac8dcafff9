#!lua flags=allow-oom
-- Finish a sample operation and take it out of the queue.
-- KEYS samples, future, results, sample_counts, kept_results, finished
-- ARGV group, entry_id, request_id, future, has_body, body, ttl_ms, stream_length, tenant, max_kept,
--      prefix of futures, field of finished
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
-- Who deletes the entry is the first; a consumer that was thought dead finds nothing.
if redis.call('XDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
if redis.call('HINCRBY', KEYS[4], ARGV[9], -1) <= 0 then redis.call('HDEL', KEYS[4], ARGV[9]) end
redis.call('HSET', KEYS[2], 'record', ARGV[4])
if ARGV[5] == '1' then redis.call('HSET', KEYS[2], 'body', ARGV[6]) end
redis.call('PEXPIRE', KEYS[2], ARGV[7])
redis.call('HINCRBY', KEYS[6], ARGV[12], 1)
-- Two at a time, so that a limit that was lowered is reached, and no script is long.
redis.call('RPUSH', KEYS[5], ARGV[3])
for _ = 1, 2 do
  if redis.call('LLEN', KEYS[5]) <= tonumber(ARGV[10]) then break end
  redis.call('DEL', ARGV[11] .. redis.call('LPOP', KEYS[5]))
end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[8], '*', 'id', ARGV[3])
return 1
