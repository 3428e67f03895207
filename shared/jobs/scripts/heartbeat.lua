#!lua flags=allow-oom
-- Register a worker and the models it serves for some seconds. Runs at the memory limit, too: a worker without a
-- heartbeat counts as dead.
--
-- KEYS     [1] the worker's heartbeat, [2] sorted set of workers by expiry, [3] hash of model cards,
--          [4] sorted set of model names by the time of their last heartbeat
-- ARGV[1]  map: id, heartbeat (JSON), seconds, index_ttl, model_ttl (seconds), cards (map of model name to JSON)
-- Reply    nil
local heartbeat, workers, models, seen = unpack(KEYS, 1, 4)
local args = cmsgpack.unpack(ARGV[1])
local now = redis.call('TIME')[1]
redis.call('SET', heartbeat, args.heartbeat, 'EX', args.seconds)
redis.call('ZADD', workers, now + args.seconds, args.id)
redis.call('ZREMRANGEBYSCORE', workers, '-inf', now)
for name, card in pairs(args.cards) do
  redis.call('HSET', models, name, card)
  redis.call('ZADD', seen, now, name)
end
for _, name in ipairs(redis.call('ZRANGE', seen, '-inf', '(' .. now - args.model_ttl, 'BYSCORE')) do
  redis.call('HDEL', models, name)
  redis.call('ZREM', seen, name)
end
for _, key in ipairs({workers, models, seen}) do redis.call('EXPIRE', key, args.index_ttl) end
