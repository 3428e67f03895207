"""The changes of state of a job, each one atomic step inside Redis, and how a job is read. For `shared.jobs` alone.

Time is Redis' own, so that clocks of different hosts never have to agree. Every change of a job that somebody may
follow is written to the job's event stream and then published: the job's id and what became of it.

A script runs again where its answer was lost. Where that would count for more than once, the request has a `ticket`,
which the job keeps: with the same one it is the same start, and no death, the same cancellation, or the same end.

Only SUBMIT is refused when Redis is at its memory limit: the others end jobs or bring them nearer to their end, which
is what makes room again.
"""

import json
import math
import secrets
from typing import Any

from otoscope.errors import DeadlineExceeded, OtoscopeError
from otoscope.types import Timings
from shared import contract
from shared.config.settings import Settings
from shared.jobs.records import FIELDS

_REFUSED_WHEN_FULL = "#!lua"
_RUNS_WHEN_FULL = "#!lua flags=allow-oom"
_READS = "#!lua flags=no-writes"

_LARGE = 2**17
"""Bytes of an upload or a result past which a script answers its size in its place, and it is fetched by itself: on its
way through a script it would be copied, while Redis does nothing else."""

# KEYS and ARGV begin alike in all that change something: the job's own keys, then the lists; the job's id.
_HEAD = """
local job, audio, result, events, gone = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local waiting, open, changes, totals = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local id = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local function stamp() return string.format('%.6f', now) end
local function tell(kind)
  redis.call('XADD', events, 'MAXLEN', 64, '*', 'kind', kind)
end
local function wake(status)
  redis.call('PUBLISH', changes, id .. ' ' .. status)
end
"""

# Storing and sending are one step, so that no job is without its message, whatever becomes of the gateway. Where the
# script comes a second time, since its first answer was lost, the job is there, perhaps finished, and left as it is.
# Nothing is published, since nobody follows a job that was not there.
#
# Callers take turns (`worker.queue.transport`): the message goes to the end of its caller's line, and a caller whose
# line was empty to the end of the queue. A line has its share of the queue's places, so that one caller
# cannot take all of them.
SUBMIT = (
    _REFUSED_WHEN_FULL
    + _HEAD
    + """
local queue, line, idem = KEYS[10], KEYS[11], KEYS[12]
local body, message, caller, model, options, described, deadline, ttl, gone_ttl, limit, share, lists_ttl, digest,
  prefix, version, trace = unpack(ARGV, 2)
local created = redis.call('HGET', job, 'created_at')
if created then return {'created', id, created, redis.call('ZRANK', waiting, id)} end
if idem then
  local before = redis.call('HMGET', idem, 'job', 'digest')
  -- A job that was forgotten or has expired is no answer to a repeat.
  if before[1] and redis.call('EXISTS', prefix .. before[1]) == 1 then
    if before[2] ~= digest then return {'conflict', before[1]} end
    return {'exists', before[1]}
  end
end
local depth = redis.call('ZCARD', open)
if depth >= tonumber(limit) then return {'full', tostring(depth)} end
local ahead = redis.call('LLEN', line)
while ahead >= tonumber(share) do
  -- The message of a job that was cancelled or given up stays until its turn comes; it takes nobody's place.
  local oldest = cjson.decode(redis.call('LINDEX', line, -1)).properties.delivery_tag
  if redis.call('HGET', prefix .. oldest, 'status') == 'queued' then return {'share', tostring(ahead)} end
  redis.call('RPOP', line)
  ahead = ahead - 1
  if ahead == 0 then redis.call('LREM', queue, 0, caller) end
end
created = stamp()
redis.call('SET', audio, body, 'EX', ttl)
redis.call('HSET', job, 'status', 'queued', 'model', model, 'options', options, 'audio', described,
  'created_at', created, 'caller', caller, 'attempts', 0, 'contract', version)
if trace ~= '' then redis.call('HSET', job, 'trace', trace) end
redis.call('EXPIRE', job, ttl)
redis.call('SET', gone, '1', 'EX', gone_ttl)
redis.call('ZADD', waiting, now, id)
redis.call('ZADD', open, now + deadline, id)
if idem then
  redis.call('HSET', idem, 'job', id, 'digest', digest)
  redis.call('EXPIRE', idem, ttl)
end
tell('queued')
redis.call('EXPIRE', events, ttl)
redis.call('LPUSH', line, message)
if ahead == 0 then redis.call('LPUSH', queue, caller) end
redis.call('HINCRBY', totals, 'accepted', 1)
for _, list in ipairs({waiting, open, queue, line, totals}) do redis.call('EXPIRE', list, lists_ttl) end
return {'created', id, created, redis.call('ZRANK', waiting, id)}
"""
)

# A job as it is at one moment: its record, its place among the waiting, its result and what happened to it after an
# event, the last two where they are asked for; a number, whether there ever was such a job, where it is not there.
READ = (
    _READS
    + """
local job, result, events, gone, waiting = unpack(KEYS)
local id, with_result, after = unpack(ARGV)
local record = redis.call('HMGET', job, FIELDS)
local status = record[1]
if not status then return redis.call('EXISTS', gone) end
local packed = false
if with_result ~= '' and status == 'succeeded' then
  packed = redis.call('STRLEN', result)
  if packed <= LARGE then packed = redis.call('GET', result) end
end
return {
  record,
  status == 'queued' and redis.call('ZRANK', waiting, id),
  packed,
  after ~= '' and redis.call('XRANGE', events, '(' .. after, '+'),
}
""".replace("FIELDS", ", ".join(map(repr, FIELDS))).replace("LARGE", str(_LARGE))
)

# A job that was in hand when its worker died is suspected of having done it. Suspects are run one at a time, and only
# the one that runs is blamed for what happens then: who was there by chance finishes, and a killer is found.
START = (
    _RUNS_WHEN_FULL
    + _HEAD
    + """
local worker, solo, most_deaths, ticket = ARGV[2], ARGV[3] ~= '', tonumber(ARGV[4]), ARGV[5]
local found = redis.call('HMGET', job, 'status', 'model', 'options', 'created_at', 'attempts', 'trace', 'contract',
  'ticket')
if not found[1] then return {'gone'} end
if found[1] ~= 'queued' and found[1] ~= 'running' then return {'finished'} end
local body = redis.call('STRLEN', audio)
if body == 0 then return {'gone'} end
local attempt, again = tonumber(found[5]) + 1, found[1] == 'running' and found[8] == ticket
local suspected = attempt > 1 and not again
if suspected and not solo then return {'suspect'} end
if body <= LARGE then body = redis.call('GET', audio) end
local left = redis.call('ZSCORE', open, id)
left = left and (left - now) or 0
if again then
  attempt = attempt - 1
else
  redis.call('ZREM', waiting, id)
  if suspected and redis.call('HINCRBY', job, 'deaths', 1) >= most_deaths then return {'poison', found[6] or ''} end
  redis.call('HSET', job, 'status', 'running', 'started_at', stamp(), 'worker', worker, 'ticket', ticket,
    'attempts', attempt)
  tell('running')
  wake('running')
end
return {
  'run', found[2], found[3], tostring(now - found[4]), tostring(left), body, attempt, found[6] or '', found[7] or '1',
}
""".replace("LARGE", str(_LARGE))
)

# A worker that gives a job back has not been killed by it. Its place is the one it had.
RELEASE = (
    _RUNS_WHEN_FULL
    + _HEAD
    + """
local worker, lists_ttl = unpack(ARGV, 2)
local found = redis.call('HMGET', job, 'status', 'worker', 'created_at', 'deaths')
if found[1] ~= 'running' or found[2] ~= worker then return 'kept' end
redis.call('HSET', job, 'status', 'queued')
redis.call('HDEL', job, 'started_at', 'worker')
redis.call('HINCRBY', job, 'attempts', -1)
if found[4] then redis.call('HINCRBY', job, 'deaths', -1) end
redis.call('ZADD', waiting, found[3], id)
redis.call('EXPIRE', waiting, lists_ttl)
tell('queued')
wake('queued')
return 'released'
"""
)

_END = """
-- Both sets hold what is unfinished: whoever takes a job out of them counts it, which nobody else can do again.
local function count(outcome)
  redis.call('ZREM', waiting, id)
  if redis.call('ZREM', open, id) == 1 then redis.call('HINCRBY', totals, outcome, 1) end
end
local function finish(status, outcome, seconds, ticket)
  redis.call('HSET', job, 'status', status, 'finished_at', stamp(), 'ticket', ticket)
  redis.call('DEL', audio)
  count(outcome)
  redis.call('EXPIRE', job, seconds)
  tell(status)
  tell('result')
  redis.call('EXPIRE', events, seconds)
  wake(status)
end
"""

FINISH = (
    _RUNS_WHEN_FULL
    + _HEAD
    + _END
    + """
local status, packed, failure, timings, outcome, ttl, gone_ttl, ticket = unpack(ARGV, 2)
local before, its = unpack(redis.call('HMGET', job, 'status', 'ticket'))
if not before then
  count('expired')
  return 'gone'
end
if before ~= 'queued' and before ~= 'running' then return its == ticket and 'stored' or 'finished' end
if packed ~= '' then redis.call('SET', result, packed, 'EX', ttl) end
if failure ~= '' then redis.call('HSET', job, 'error', failure) end
if timings ~= '' then redis.call('HSET', job, 'timings', timings) end
redis.call('SET', gone, '1', 'EX', gone_ttl)
finish(status, outcome, ttl, ticket)
return 'stored'
"""
)

# A worker that cannot say that it is there is taken for dead, at a memory limit as well.
ANNOUNCE = (
    _RUNS_WHEN_FULL
    + """
local vouch, workers, models, told = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, said, seconds, lists_ttl = unpack(ARGV, 1, 4)
local now = redis.call('TIME')[1]
redis.call('SET', vouch, said, 'EX', seconds)
redis.call('ZADD', workers, now + seconds, id)
redis.call('ZREMRANGEBYSCORE', workers, '-inf', now)
if #ARGV > 4 then redis.call('HSET', models, unpack(ARGV, 5)) end
for at = 5, #ARGV, 2 do redis.call('ZADD', told, now, ARGV[at]) end
for _, model in ipairs(redis.call('ZRANGE', told, '-inf', '(' .. now - lists_ttl, 'BYSCORE')) do
  redis.call('HDEL', models, model)
  redis.call('ZREM', told, model)
end
for _, list in ipairs({workers, models, told}) do redis.call('EXPIRE', list, lists_ttl) end
"""
)

CANCEL = (
    _RUNS_WHEN_FULL
    + _HEAD
    + _END
    + """
local ttl, ticket = unpack(ARGV, 2)
local before, its = unpack(redis.call('HMGET', job, 'status', 'ticket'))
if not before then return 'gone' end
if before == 'cancelled' and its == ticket then return 'cancelled' end
if before == 'queued' or before == 'running' then
  finish('cancelled', 'cancelled', ttl, ticket)
  return 'cancelled'
end
redis.call('DEL', job, audio, result, events, gone)
wake('forgotten')
return 'forgotten'
"""
)


_BOOKS = (contract.WAITING, contract.OPEN, contract.CHANGES, contract.TOTALS)


def keys(job_id: str, *more: str) -> list[str]:
    """KEYS of what changes a job."""
    own = (contract.job_key, contract.audio_key, contract.result_key, contract.events_key, contract.gone_key)
    return [*(key(job_id) for key in own), *_BOOKS, *more]


def read_keys(job_id: str) -> list[str]:
    """KEYS of READ."""
    own = (contract.job_key, contract.result_key, contract.events_key, contract.gone_key)
    return [*(key(job_id) for key in own), contract.WAITING]


def ticket() -> str:
    """Of one request, however often it is sent."""
    return secrets.token_hex(8)


def lists_ttl(settings: Settings) -> int:
    """Seconds that lists of jobs outlive the last write to them: as long as any job in them, too."""
    return max(contract.LISTS_TTL, job_ttl(settings))


def job_ttl(settings: Settings) -> int:
    """Seconds that a job lasts which nobody finishes."""
    return math.ceil(settings.job_deadline) + settings.result_ttl


def finish_args(
    settings: Settings,
    job_id: str,
    status: str,
    *,
    packed: bytes = b"",
    error: OtoscopeError | None = None,
    timings: Timings | None = None,
) -> list[Any]:
    """ARGV of FINISH."""
    ttl = settings.result_ttl
    failure = json.dumps({"code": error.code, "detail": error.detail}) if error else ""
    measured = timings.model_dump_json() if timings else ""
    outcome = "expired" if isinstance(error, DeadlineExceeded) else status
    return [job_id, status, packed, failure, measured, outcome, ttl, ttl + settings.tombstone_ttl, ticket()]
