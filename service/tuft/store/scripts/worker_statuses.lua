#!lua flags=allow-oom
-- What workers said, forgetting those whose time is over.
-- KEYS workers
-- ARGV prefix of what one worker said
-- Returns {worker_id, status, ...}
local found = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local said = redis.call('GET', ARGV[1] .. id)
  if said then
    table.insert(found, id)
    table.insert(found, said)
  else
    redis.call('SREM', KEYS[1], id)
  end
end
return found
