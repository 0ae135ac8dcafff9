#!lua flags=no-writes,allow-oom
-- Read entries up to the first gap.
-- KEYS run, entries
-- ARGV first, last
-- Returns {trimmed, entry, ...}, or {} where there is no such run
local trimmed = redis.call('HGET', KEYS[1], 'trimmed')
if not trimmed then return {} end
local found = {trimmed}
for seq = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local entry = redis.call('HGET', KEYS[2], seq)
  if not entry then break end
  table.insert(found, entry)
end
return found
