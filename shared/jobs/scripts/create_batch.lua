#!lua
-- Store the record of a batch, before its jobs are submitted.
--
-- KEYS     [1] hash: the batch
-- ARGV     [1] the record (JSON), [2] digest of the request, [3] seconds after which it expires
-- Reply    {'created'} or {'exists', record}, of an earlier request with the same digest; {'conflict'}: of another one
local batch = KEYS[1]
local record, digest, ttl = unpack(ARGV)
local stored = redis.call('HMGET', batch, 'record', 'digest')
if stored[1] then
  if stored[2] ~= digest then return {'conflict'} end
  return {'exists', stored[1]}
end
redis.call('HSET', batch, 'record', record, 'digest', digest)
redis.call('EXPIRE', batch, ttl)
return {'created'}
