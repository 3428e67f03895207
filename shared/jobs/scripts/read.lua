#!lua flags=no-writes
-- Read a job as it is at one moment.
--
-- KEYS     [1] record, [2] result, [3] events, [4] tombstone, [5] sorted set of queued jobs
-- ARGV[1]  the job's id
-- ARGV[2]  '1': with the result; '': without
-- ARGV[3]  id of a stream entry: with the events after it; '': without events
-- Reply    {fields, rank, result, events}: the fields below; the place among the queued jobs from 0, or nil; the packed
--          result of a succeeded job, its size where it is large (inline.lua), or nil; the stream entries, or nil.
--          Where there is no record: 1 if there was one (its tombstone is left), 0 if not.
--!include inline.lua
local job, result, events, tombstone, queued = unpack(KEYS)
local id, with_result, after = unpack(ARGV)
-- In the order of shared.jobs.records.FIELDS.
local record = redis.call('HMGET', job, 'status', 'model', 'audio', 'created_at', 'started_at', 'finished_at', 'timings',
  'error', 'caller', 'trace', 'progress', 'keep_sound')
local status = record[1]
if not status then return redis.call('EXISTS', tombstone) end
return {
  record,
  status == 'queued' and redis.call('ZRANK', queued, id),
  with_result ~= '' and status == 'succeeded' and value_or_size(result),
  after ~= '' and redis.call('XRANGE', events, '(' .. after, '+'),
}
