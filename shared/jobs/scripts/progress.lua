#!lua flags=allow-oom
-- Store how far a running job is, and notify the gateways.
--
-- KEYS[1..10] see job.lua
-- ARGV[1]     map: id, worker (which claimed it), progress (JSON)
-- Reply       'stored', or 'kept' where that worker is not running the job
--
-- No event of the stream: what counts is the latest progress, and it need not be replayed.
--!include job.lua
local status, worker = unpack(redis.call('HMGET', job, 'status', 'worker'), 1, 2)
if status ~= 'running' or worker ~= args.worker then return 'kept' end
redis.call('HSET', job, 'progress', args.progress)
publish('running')
return 'stored'
