#!lua flags=allow-oom
-- Renew the leases of jobs that a worker holds. An id that is no longer unacknowledged is left alone: its job was
-- requeued, and perhaps delivered to another worker.
--
-- KEYS   [1] sorted set of unacknowledged ids by the time of their last renewal
-- ARGV   the ids
-- Reply  nil
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
for _, id in ipairs(ARGV) do redis.call('ZADD', KEYS[1], 'XX', now, id) end
