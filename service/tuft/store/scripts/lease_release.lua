#!lua flags=allow-oom
-- The group's leader goes: whoever waits may take over at once. Its epoch is valid until then.
-- KEYS lease, holder
-- ARGV epoch, holder
if redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('GET', KEYS[2]) == ARGV[2] then
  redis.call('DEL', KEYS[2])
end
return 1
