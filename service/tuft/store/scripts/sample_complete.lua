#!lua flags=allow-oom
-- Finish a sample operation and take it out of the queue.
-- KEYS samples, future, results
-- ARGV group, entry_id, request_id, future, has_body, body, ttl_ms, stream_length
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
-- Who deletes the entry is the first; a consumer that was thought dead finds nothing.
if redis.call('XDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('HSET', KEYS[2], 'record', ARGV[4])
if ARGV[5] == '1' then redis.call('HSET', KEYS[2], 'body', ARGV[6]) end
redis.call('PEXPIRE', KEYS[2], ARGV[7])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[8], '*', 'id', ARGV[3])
return 1
