-- Included by the scripts that return an upload or a result.

-- The value of a string key, or its size in bytes where it is larger than this. The client then reads a large value with
-- GET: a script would copy it, and Redis runs nothing else meanwhile. A missing key has the size 0.
local INLINE_BYTES = 262144  -- five seconds of 16 bits at 16 kHz are 160,000
local function value_or_size(key)
  local size = redis.call('STRLEN', key)
  if size == 0 or size > INLINE_BYTES then return size end
  return redis.call('GET', key)
end
