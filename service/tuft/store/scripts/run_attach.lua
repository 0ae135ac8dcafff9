-- Give a run's new writer the next epoch; one that is known gets its own again.
-- KEYS run
-- ARGV now, name of the writer (may be empty), then the fields to answer with
-- Returns {epoch, fields}; {} where there is no such run; {0} where it can't be trained any more
local live = redis.call('HGET', KEYS[1], 'live')
if not live then return {} end
if live ~= '1' then return {0} end
local writer, epoch = ARGV[2], nil
local known = cjson.decode(redis.call('HGET', KEYS[1], 'writers') or '[]')
for _, one in ipairs(known) do
  if writer ~= '' and one['writer'] == writer then epoch = one['epoch'] end
end
if not epoch then
  epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  if writer ~= '' then
    table.insert(known, {writer = writer, epoch = epoch})
    -- A request that is repeated comes within minutes of the first.
    if #known > 16 then table.remove(known, 1) end
    redis.call('HSET', KEYS[1], 'writers', cjson.encode(known))
  end
end
redis.call('HSET', KEYS[1], 'last_request_at', ARGV[1])
return {epoch, redis.call('HMGET', KEYS[1], unpack(ARGV, 3))}
