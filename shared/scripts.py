"""The changes of state of a job, each one atomic step inside Redis. Used by `shared.store` alone.

Time is Redis' own, so that clocks of different hosts never have to agree. Every script publishes the job's id after
it changed something, and writes the change to the job's event stream before that.

Only SUBMIT is refused when Redis is at its memory limit: the others end jobs or bring them nearer to their end, which
is what makes room again.
"""

_REFUSED_WHEN_FULL = "#!lua"
_RUNS_WHEN_FULL = "#!lua flags=allow-oom"

# KEYS and ARGV begin alike in all of them: the job's own keys, then the lists.
_HEAD = """
local job, audio, result, events, gone = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local waiting, open, changes = KEYS[6], KEYS[7], KEYS[8]
local id = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local function stamp() return string.format('%.6f', now) end
local function tell(kind)
  redis.call('XADD', events, 'MAXLEN', 64, '*', 'kind', kind)
end
local function wake()
  redis.call('PUBLISH', changes, id)
end
"""

SUBMIT = (
    _REFUSED_WHEN_FULL
    + _HEAD
    + """
local idem = KEYS[9]
local body, record, deadline, ttl, gone_ttl, limit, lists_ttl, digest, prefix = unpack(ARGV, 2)
if idem ~= '' then
  local before = redis.call('HMGET', idem, 'job', 'digest')
  -- A job that was forgotten or has expired is no answer to a repeat.
  if before[1] and redis.call('EXISTS', prefix .. before[1]) == 1 then
    if before[2] ~= digest then return {'conflict', before[1]} end
    return {'exists', before[1]}
  end
end
local depth = redis.call('ZCARD', open)
if depth >= tonumber(limit) then return {'full', tostring(depth)} end
redis.call('SET', audio, body, 'EX', ttl)
redis.call('HSET', job, unpack(cjson.decode(record)))
redis.call('HSET', job, 'status', 'queued', 'created_at', stamp(), 'attempts', 0)
redis.call('EXPIRE', job, ttl)
redis.call('SET', gone, '1', 'EX', gone_ttl)
redis.call('ZADD', waiting, now, id)
redis.call('ZADD', open, now + deadline, id)
redis.call('EXPIRE', waiting, lists_ttl)
redis.call('EXPIRE', open, lists_ttl)
if idem ~= '' then
  redis.call('HSET', idem, 'job', id, 'digest', digest)
  redis.call('EXPIRE', idem, ttl)
end
tell('queued')
redis.call('EXPIRE', events, ttl)
wake()
return {'created', id}
"""
)

START = (
    _RUNS_WHEN_FULL
    + _HEAD
    + """
local worker, max_attempts = ARGV[2], tonumber(ARGV[3])
local found = redis.call('HMGET', job, 'status', 'model', 'options', 'created_at')
if not found[1] then return {'gone'} end
if found[1] ~= 'queued' and found[1] ~= 'running' then return {'finished'} end
local body = redis.call('GET', audio)
if not body then return {'gone'} end
local left = redis.call('ZSCORE', open, id)
left = left and (left - now) or 0
redis.call('ZREM', waiting, id)
if redis.call('HINCRBY', job, 'attempts', 1) > max_attempts then return {'poison'} end
redis.call('HSET', job, 'status', 'running', 'started_at', stamp(), 'worker', worker)
tell('running')
wake()
return {'run', found[2], found[3], tostring(now - found[4]), tostring(left), body}
"""
)

_END = """
local function finish(status, seconds)
  redis.call('HSET', job, 'status', status, 'finished_at', stamp())
  redis.call('DEL', audio)
  redis.call('ZREM', waiting, id)
  redis.call('ZREM', open, id)
  redis.call('EXPIRE', job, seconds)
  tell(status)
  tell('result')
  redis.call('EXPIRE', events, seconds)
end
"""

FINISH = (
    _RUNS_WHEN_FULL
    + _HEAD
    + _END
    + """
local status, packed, failure, timings, ttl, gone_ttl = unpack(ARGV, 2)
local before = redis.call('HGET', job, 'status')
if not before then
  redis.call('ZREM', waiting, id)
  redis.call('ZREM', open, id)
  return 'gone'
end
if before ~= 'queued' and before ~= 'running' then return 'finished' end
if packed ~= '' then redis.call('SET', result, packed, 'EX', ttl) end
if failure ~= '' then redis.call('HSET', job, 'error', failure) end
if timings ~= '' then redis.call('HSET', job, 'timings', timings) end
finish(status, ttl)
redis.call('SET', gone, '1', 'EX', gone_ttl)
wake()
return 'stored'
"""
)

CANCEL = (
    _RUNS_WHEN_FULL
    + _HEAD
    + _END
    + """
local ttl = ARGV[2]
local before = redis.call('HGET', job, 'status')
if not before then return 'gone' end
if before == 'queued' or before == 'running' then
  finish('cancelled', ttl)
  wake()
  return 'cancelled'
end
redis.call('DEL', job, audio, result, events, gone)
wake()
return 'forgotten'
"""
)

# A submission whose message could not be sent: as if it had never been.
WITHDRAW = (
    _RUNS_WHEN_FULL
    + _HEAD
    + """
redis.call('DEL', job, audio, result, events, gone)
redis.call('ZREM', waiting, id)
redis.call('ZREM', open, id)
if KEYS[9] ~= '' then redis.call('DEL', KEYS[9]) end
wake()
return 'withdrawn'
"""
)
