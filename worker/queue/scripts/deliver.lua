#!lua flags=allow-oom
-- Take queued jobs for one worker and record them as unacknowledged, in one atomic step: no job is lost with a worker
-- that dies in between. Runs at the memory limit, too: finishing jobs frees memory.
--
-- KEYS     [1] list: callers in the order of their turns, and requeued jobs as `job:{id}` (shared.contract.QUEUE)
--          [2] sorted set of unacknowledged ids by the time of their last renewal
-- ARGV     [1] how many jobs at most, [2] key prefix of the callers' lists, [3] seconds that both keys are kept
-- Reply    list of {id, redelivered (1 or 0)}
--
-- The caller at the end of KEYS[1] gives its oldest job and moves to the other end while it has more.
local turns, unacked = KEYS[1], KEYS[2]
local limit, prefix, ttl = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local delivered = {}
while #delivered < limit do
  local turn = redis.call('RPOP', turns)
  if not turn then break end
  local id, redelivered = turn:match('^job:(.*)$'), 1
  if not id then
    local caller_queue = prefix .. turn
    id, redelivered = redis.call('RPOP', caller_queue), 0
    if redis.call('EXISTS', caller_queue) == 1 then redis.call('LPUSH', turns, turn) end
  end
  if id then
    redis.call('ZADD', unacked, now, id)
    delivered[#delivered + 1] = {id, redelivered}
  end
end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ttl) end
return delivered
