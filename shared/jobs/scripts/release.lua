#!lua flags=allow-oom
-- Return a claimed job to the queue as if it had never been delivered: in its old place, with no attempt and no death
-- counted. The worker still rejects its message, which delivers the job again.
--
-- KEYS[1..10] see job.lua
-- ARGV[1]     map: id, worker (which claimed it), index_ttl (seconds)
-- Reply       'released', or 'kept' where that worker is not running the job
--!include job.lua
local status, worker, created, deaths = unpack(redis.call('HMGET', job, 'status', 'worker', 'created_at', 'deaths'), 1, 4)
if status ~= 'running' or worker ~= args.worker then return 'kept' end
redis.call('HSET', job, 'status', 'queued')
redis.call('HDEL', job, 'started_at', 'worker')
redis.call('HINCRBY', job, 'attempts', -1)
if deaths then redis.call('HINCRBY', job, 'deaths', -1) end
redis.call('ZADD', queued, created, id)
redis.call('EXPIRE', queued, args.index_ttl)
add_event('queued')
publish('queued')
return 'released'
