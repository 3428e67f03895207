#!lua
-- Store a job with its upload and queue its id, in one atomic step: no job is without its queue entry, whatever becomes
-- of the gateway. The only script that Redis refuses at its memory limit.
--
-- KEYS[1..10] see job.lua
-- KEYS[11]    list: the callers in the order of their turns (shared.contract.QUEUE)
-- KEYS[12]    list: the queued ids of this caller's jobs
-- KEYS[13]    hash of the Idempotency-Key; missing where the request has none
-- ARGV[1]     map: id, caller, model, options (JSON), audio (JSON), trace, contract, deadline, ttl, tombstone_ttl,
--             index_ttl (all in seconds), queue_limit, caller_limit (jobs), memory_share (of the memory limit),
--             result_bytes (of the largest result), keep_sound (boolean), job_prefix (of the record keys), digest (of the
--             request, where it has an Idempotency-Key)
-- ARGV[2]     the upload
-- Reply       {'created', id, created_at, rank}  rank: place among the queued jobs from 0, nil where it is not queued
--             {'exists', id}                     the job of an earlier request with this Idempotency-Key
--             {'conflict', id}                   the Idempotency-Key belongs to another request
--             {'full', jobs}                     so many jobs are unfinished
--             {'caller_full', jobs}              so many jobs of this caller are queued
--             {'memory_full', share}             what is stored and reserved, of the memory limit
--
-- Callers take turns (worker.queue.transport): the id goes to the end of the caller's own list, and a caller whose list
-- was empty goes to the end of the list of callers.
--
-- The largest result that the job can have is reserved, since it is stored whether or not there is memory left: all
-- accepted jobs together cannot exceed the limit.
--
-- Idempotent: sent again after a lost reply, the script finds the job, perhaps finished, and leaves it as it is. Nothing
-- is published, since no client can be subscribed to a job that did not exist.
--!include job.lua
--!include memory.lua
local turns, caller_queue, idempotency = KEYS[11], KEYS[12], KEYS[13]
local created = redis.call('HGET', job, 'created_at')
if created then return {'created', id, created, redis.call('ZRANK', queued, id)} end
if idempotency then
  local before = redis.call('HMGET', idempotency, 'job', 'digest')
  -- A job that was deleted or has expired is no answer to a repeated request.
  if before[1] and redis.call('EXISTS', args.job_prefix .. before[1]) == 1 then
    if before[2] ~= args.digest then return {'conflict', before[1]} end
    return {'exists', before[1]}
  end
end
local depth = redis.call('ZCARD', unfinished)
if depth >= args.queue_limit then return {'full', tostring(depth)} end
local ahead = redis.call('LLEN', caller_queue)
while ahead >= args.caller_limit do
  -- The id of a cancelled or expired job stays in the list until its turn; it must not take the place of another job.
  local oldest = redis.call('LINDEX', caller_queue, -1)
  if redis.call('HGET', args.job_prefix .. oldest, 'status') == 'queued' then return {'caller_full', tostring(ahead)} end
  redis.call('RPOP', caller_queue)
  ahead = ahead - 1
  if ahead == 0 then redis.call('LREM', turns, 0, args.caller) end
end
local over = share_over(args.memory_share, #ARGV[2] + args.result_bytes)
if over then return {'memory_full', tostring(over)} end
created = timestamp()
reserve(args.result_bytes)
redis.call('SET', audio, ARGV[2], 'EX', args.ttl)
redis.call('HSET', job, 'status', 'queued', 'model', args.model, 'options', args.options, 'audio', args.audio,
  'created_at', created, 'caller', args.caller, 'attempts', 0, 'contract', args.contract)
if args.trace ~= '' then redis.call('HSET', job, 'trace', args.trace) end
if args.keep_sound then redis.call('HSET', job, 'keep_sound', 1) end
redis.call('EXPIRE', job, args.ttl)
redis.call('SET', tombstone, '1', 'EX', args.tombstone_ttl)
redis.call('ZADD', queued, now, id)
redis.call('ZADD', unfinished, now + args.deadline, id)
if idempotency then
  redis.call('HSET', idempotency, 'job', id, 'digest', args.digest)
  redis.call('EXPIRE', idempotency, args.ttl)
end
add_event('queued')
redis.call('EXPIRE', events, args.ttl)
redis.call('LPUSH', caller_queue, id)
if ahead == 0 then redis.call('LPUSH', turns, args.caller) end
redis.call('HINCRBY', totals, 'accepted', 1)
for _, key in ipairs({queued, unfinished, reserved, turns, caller_queue, totals}) do redis.call('EXPIRE', key, args.index_ttl) end
return {'created', id, created, redis.call('ZRANK', queued, id)}
