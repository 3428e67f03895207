-- Included after job.lua by the scripts that end a job.

-- Both sorted sets hold unfinished jobs only. The caller that removes the job from `unfinished` counts its outcome, so
-- that no job is counted twice. What was reserved for its result is free again.
local function count(outcome)
  redis.call('ZREM', queued, id)
  if redis.call('ZREM', unfinished, id) == 1 then redis.call('HINCRBY', totals, outcome, 1) end
  local bytes = redis.call('HGET', reserved, id)
  if bytes then
    redis.call('HDEL', reserved, id)
    redis.call('HINCRBY', reserved, 'total', -bytes)
  end
end

-- Store the final status; record and events expire after `ttl` seconds, and so does the upload of a succeeded job that
-- was submitted with `keep_sound`. Any other upload is deleted.
local function finish(status, outcome, ttl)
  redis.call('HSET', job, 'status', status, 'finished_at', timestamp(), 'request_token', args.request_token)
  if status == 'succeeded' and redis.call('HGET', job, 'keep_sound') then
    redis.call('EXPIRE', audio, ttl)
  else
    redis.call('DEL', audio)
  end
  count(outcome)
  redis.call('EXPIRE', job, ttl)
  add_event(status)
  add_event('result')
  redis.call('EXPIRE', events, ttl)
  publish(status)
end
