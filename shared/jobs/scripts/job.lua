-- Included by every script that changes a job.
--
-- KEYS[1..10] keys of the job and of the indexes, in the order in which they are named below
-- ARGV[1]     MessagePack map of arguments; `id` is the job's id
--
-- All times are seconds since 1970 on the clock of Redis, so that the clocks of the hosts need not agree.
local job, audio, result, events, tombstone, queued, unfinished, totals, changes, reserved = unpack(KEYS, 1, 10)
local args = cmsgpack.unpack(ARGV[1])
local id = args.id
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000

local function timestamp()
  return string.format('%.6f', now)
end

-- Append to the job's event stream. It is bounded: a job may be delivered any number of times.
local function add_event(kind)
  redis.call('XADD', events, 'MAXLEN', 64, '*', 'kind', kind)
end

-- Notify the gateways. The message is a hint: what counts is the record and the stream.
local function publish(status)
  redis.call('PUBLISH', changes, id .. ' ' .. status)
end
