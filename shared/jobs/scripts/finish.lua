#!lua flags=allow-oom
-- Store the end of a job: its result or its error.
--
-- KEYS[1..10] see job.lua
-- ARGV[1]     map: id, status, outcome (the field of the totals that counts it), ttl, tombstone_ttl (seconds),
--             request_token, error (JSON or ''), timings (JSON or '')
-- ARGV[2]     the packed result, or ''
-- Reply       'stored'    also for a repeated request whose reply was lost
--             'too_large' the result is larger than was reserved for it, and there is no memory for the rest
--             'finished'  the job had ended before
--             'missing'   its record has expired; it is counted as expired, unless it has been counted
--!include job.lua
--!include end.lua
--!include memory.lua
local status, token = unpack(redis.call('HMGET', job, 'status', 'request_token'), 1, 2)
if not status then
  count('expired')
  return 'missing'
end
if status ~= 'queued' and status ~= 'running' then return token == args.request_token and 'stored' or 'finished' end
local free = tonumber(redis.call('HGET', reserved, id))
if free and #ARGV[2] > free and share_over(1, #ARGV[2] - free) then return 'too_large' end
if ARGV[2] ~= '' then redis.call('SET', result, ARGV[2], 'EX', args.ttl) end
if args.error ~= '' then redis.call('HSET', job, 'error', args.error) end
if args.timings ~= '' then redis.call('HSET', job, 'timings', args.timings) end
redis.call('SET', tombstone, '1', 'EX', args.tombstone_ttl)
finish(args.status, args.outcome, args.ttl)
return 'stored'
