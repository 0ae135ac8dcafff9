#!lua flags=allow-oom
-- The trainer died at an operation. Telling of the same death again changes nothing.
-- KEYS deaths
-- ARGV seq, life of the trainer that died
-- Returns how often trainers died at it
local known = redis.call('HGET', KEYS[1], ARGV[1])
local count, life = 0, nil
if known then
  count, life = string.match(known, '^(%d+):(.*)$')
end
if life ~= ARGV[2] then
  count = tonumber(count) + 1
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%d:%s', count, ARGV[2]))
end
return tonumber(count)
