#!lua flags=allow-oom
-- Acknowledge jobs that one worker has finished, take queued jobs for it and record them as unacknowledged, in one atomic
-- step: no job is lost with a worker that dies in between. Runs at the memory limit, too: finishing jobs frees memory.
--
-- KEYS     [1] list: callers in the order of their turns, and requeued jobs as `job:{id}` (shared.contract.QUEUE)
--          [2] sorted set of unacknowledged ids by the time of their last renewal
-- ARGV[1]  map: limit (jobs at most), acked (ids of finished jobs), queue_prefix (of the callers' lists), job_prefix (of
--          the records), ttl (seconds that both keys are kept), weight (of long sounds that may be taken at most),
--          models (that the worker serves; absent: jobs of every model are taken)
-- Reply    list of {id, redelivered (1 or 0), weight (0 for a short sound)}
--
-- The caller at the end of KEYS[1] gives its oldest job and moves to the other end while it has more. A job that this
-- worker cannot run, since it does not serve the model or has no room for so long a sound, stays in its place for
-- another worker, and the caller's next job is taken. A long sound that does not fit keeps later long ones waiting, too,
-- so that it is not overtaken for as long as there are shorter ones.
local turns, unacked = KEYS[1], KEYS[2]
local args = cmsgpack.unpack(ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000

if args.acked[1] then redis.call('ZREM', unacked, unpack(args.acked)) end

local SHORT = 60  -- seconds: of these a worker may have as many as jobs
local LONGEST = 601  -- seconds: a longer sound is not in memory as a whole
local BYTES_A_SECOND = 65536  -- of 16 kHz in float32: an upload takes memory as well, however short its sound is
local MOST_SCANNED = 10000  -- jobs of other models or long sounds, for one delivery

local served, room, scanned = args.models and {}, args.weight, 0
for _, name in ipairs(args.models or {}) do served[name] = true end

-- Seconds of sound whose memory the job takes, or 0 for a short sound.
local function weight_of(audio)
  local info = cjson.decode(audio)
  local seconds = tonumber(info.duration) or LONGEST  -- null where the header does not say
  local weight = math.min(math.max(seconds, (tonumber(info.bytes) or 0) / BYTES_A_SECOND), LONGEST)
  return weight > SHORT and math.ceil(weight) or 0
end

-- The weight of a job that this worker can run now, or nil. A job that has ended, or whose record has expired, is
-- delivered to be skipped, whatever its model.
local ENDED = {succeeded = true, failed = true, cancelled = true}
local function weight_if_runnable(id)
  local model, audio, status = unpack(redis.call('HMGET', args.job_prefix .. id, 'model', 'audio', 'status'), 1, 3)
  if not model or not audio or ENDED[status or ''] then return 0 end
  scanned = scanned + 1
  if served and not served[model] then return nil end
  local weight = weight_of(audio)
  if weight > room then
    room = 0
    return nil
  end
  return weight
end

-- Remove the oldest job of a caller that this worker can run; returns its id and weight, or nil.
local function next_of(caller_queue)
  local last = -1
  while scanned < MOST_SCANNED do
    local ids = redis.call('LRANGE', caller_queue, last - 15, last)
    for i = #ids, 1, -1 do
      local weight = weight_if_runnable(ids[i])
      if weight then
        redis.call('LREM', caller_queue, -1, ids[i])
        return ids[i], weight
      end
    end
    if #ids < 16 then return nil end
    last = last - 16
  end
end

local delivered, kept = {}, {}
while #delivered < args.limit do
  local turn = redis.call('RPOP', turns)
  if not turn then break end
  local id, redelivered, weight = turn:match('^job:(.*)$'), 1, nil
  if id then
    weight = weight_if_runnable(id)
    if not weight then kept[#kept + 1] = turn end
  else
    local caller_queue = args.queue_prefix .. turn
    id, weight = next_of(caller_queue)
    redelivered = 0
    if redis.call('EXISTS', caller_queue) == 1 then
      if id then redis.call('LPUSH', turns, turn) else kept[#kept + 1] = turn end
    end
  end
  if id and weight then
    room = room - weight
    redis.call('ZADD', unacked, now, id)
    delivered[#delivered + 1] = {id, redelivered, weight}
  end
end
for i = #kept, 1, -1 do redis.call('RPUSH', turns, kept[i]) end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, args.ttl) end
return delivered
