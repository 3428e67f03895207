#!lua flags=allow-oom
-- Put unacknowledged jobs back: those named, or else up to 100 whose lease has expired. They go to the front of the
-- queue, since each has waited longer than any job that is queued there.
--
-- A renewal in the future means that the clock has stepped back: without a correction the job of a dead worker would wait
-- until the clock is there again. It counts from now on; a living worker renews it within seconds anyway.
--
-- KEYS   [1] list: callers in the order of their turns, and requeued jobs as `job:{id}` (shared.contract.QUEUE)
--        [2] sorted set of unacknowledged ids by the time of their last renewal
-- ARGV   [1] lease in seconds, [2] seconds that the list is kept, [3...] ids; none: those whose lease has expired
-- Reply  how many ids were looked up
local turns, unacked = KEYS[1], KEYS[2]
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local ids = {unpack(ARGV, 3)}
if #ids == 0 then
  for _, id in ipairs(redis.call('ZRANGE', unacked, now + 1, '+inf', 'BYSCORE', 'LIMIT', 0, 1000)) do
    redis.call('ZADD', unacked, 'XX', now, id)
  end
end
if #ids == 0 then ids = redis.call('ZRANGE', unacked, '-inf', now - ARGV[1], 'BYSCORE', 'LIMIT', 0, 100) end
for _, id in ipairs(ids) do
  if redis.call('ZREM', unacked, id) == 1 then
    redis.call('RPUSH', turns, 'job:' .. id)
    redis.call('EXPIRE', turns, ARGV[2])
  end
end
return #ids
