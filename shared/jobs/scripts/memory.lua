-- Included after job.lua by the scripts that reserve memory for results, or check what is left.
--
-- `reserved` is a hash of job id to the bytes of the largest result that the job can have, with their sum in the field
-- `total`. A job's bytes are released in the step that takes it out of `unfinished` (end.lua).

local function reserve(bytes)
  if bytes == 0 then return end
  redis.call('HSET', reserved, id, bytes)
  redis.call('HINCRBY', reserved, 'total', bytes)
end

-- Drop the bytes of jobs that are no longer unfinished, such as those that a worker of an earlier version has ended.
local function recount()
  local total, fields = 0, redis.call('HGETALL', reserved)
  for i = 1, #fields, 2 do
    if fields[i] ~= 'total' then
      if redis.call('ZSCORE', unfinished, fields[i]) then
        total = total + fields[i + 1]
      else
        redis.call('HDEL', reserved, fields[i])
      end
    end
  end
  redis.call('HSET', reserved, 'total', total)
end

-- The share of the memory limit that is in use and reserved together with `more` bytes, if it is above `most`; else nil.
local function share_over(most, more)
  local info = redis.call('INFO', 'memory')
  local limit, used = tonumber(info:match('maxmemory:(%d+)')), tonumber(info:match('used_memory:(%d+)'))
  if not limit or limit == 0 then return nil end
  local function share()
    return (used + (tonumber(redis.call('HGET', reserved, 'total')) or 0) + more) / limit
  end
  if share() <= most then return nil end
  recount()
  local now_used = share()
  return now_used > most and now_used or nil
end
