#!lua flags=allow-oom
-- Cancel an unfinished job; delete a finished one, tombstone included.
--
-- KEYS[1..10] see job.lua
-- ARGV[1]     map: id, ttl (seconds that a cancelled job is kept), request_token
-- Reply       'cancelled'  also for a repeated request whose reply was lost
--             'forgotten'  deleted
--             'missing'    no such job
--!include job.lua
--!include end.lua
local status, token = unpack(redis.call('HMGET', job, 'status', 'request_token'), 1, 2)
if not status then return 'missing' end
if status == 'cancelled' and token == args.request_token then return 'cancelled' end
if status == 'queued' or status == 'running' then
  finish('cancelled', 'cancelled', args.ttl)
  return 'cancelled'
end
redis.call('DEL', job, audio, result, events, tombstone)
publish('forgotten')
return 'forgotten'
