#!lua flags=allow-oom
-- Start a delivered job on a worker.
--
-- KEYS[1..10] see job.lua
-- ARGV[1]     map: id, worker, isolated (boolean), max_attempts, request_token
-- Reply       {'run', model, options, seconds queued, seconds until the deadline, upload or its size (inline.lua),
--             attempt, trace, contract, audio (JSON)}
--             {'missing'}        no such job, or its upload has expired
--             {'finished'}       cancelled, or delivered a second time
--             {'quarantined'}    claim it again with `isolated`, while no other isolated job runs
--             {'poison', trace}  too many workers have died while it ran isolated
--
-- A job that was in flight when its worker died may have killed it, and is quarantined. Quarantined jobs run one at a
-- time, and a death counts against the isolated job alone: a job that was in flight by chance finishes, and a job that
-- kills its worker is found.
--
-- Idempotent: a script runs again where its reply was lost. With the request token of the present attempt it is that
-- attempt, and no death.
--!include job.lua
--!include inline.lua
local found = redis.call('HMGET', job, 'status', 'model', 'options', 'created_at', 'attempts', 'trace', 'contract',
  'request_token', 'audio')
local status, model, options, created, attempts, trace, contract, token, info = unpack(found, 1, 9)
if not status then return {'missing'} end
if status ~= 'queued' and status ~= 'running' then return {'finished'} end
local attempt, repeated = tonumber(attempts) + 1, status == 'running' and token == args.request_token
local quarantined = attempt > 1 and not repeated
if redis.call('STRLEN', audio) == 0 then return {'missing'} end
if quarantined and not args.isolated then return {'quarantined'} end
local deadline = redis.call('ZSCORE', unfinished, id)
local left = deadline and (deadline - now) or 0
if repeated then
  attempt = attempt - 1
else
  redis.call('ZREM', queued, id)
  if quarantined and redis.call('HINCRBY', job, 'deaths', 1) >= args.max_attempts then
    return {'poison', trace or ''}
  end
  redis.call('HSET', job, 'status', 'running', 'started_at', timestamp(), 'worker', args.worker, 'attempts', attempt,
    'request_token', args.request_token)
  redis.call('HDEL', job, 'progress')
  add_event('running')
  publish('running')
end
return {
  'run', model, options, tostring(now - created), tostring(left), value_or_size(audio), attempt, trace or '',
  contract or '1', info,
}
