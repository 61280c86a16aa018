#!lua flags=allow-oom
-- Take up to n tickets in strict order of the queues into a worker's own in-flight list.
--   KEYS[1]     list  in-flight list of the worker: a kill between this pop and the claim loses nothing
--   KEYS[2..]   list  rq:queue:NAME, in order of service
-- ARGV[1] = n
-- Returns a flat list: queue position (1 = first queue), job id, …
local left = tonumber(ARGV[1])
local taken = {}
for i = 2, #KEYS do
  if left <= 0 then break end
  local ids = redis.call('LPOP', KEYS[i], left)
  if ids then
    redis.call('RPUSH', KEYS[1], unpack(ids))
    for _, id in ipairs(ids) do
      taken[#taken + 1] = i - 1
      taken[#taken + 1] = id
    end
    left = left - #ids
  end
end
return taken
