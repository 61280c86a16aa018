-- The living workers that RQ lists for some queues, without our own: those have rows.
--   KEYS      set   rq:workers:NAME, one per queue
--   rq:worker:W     hash  gone or with a date of death if the worker is dead
-- Returns per worker a list: key, hostname, pid, state, queues, finished, failed, birth, last heartbeat.
local found = {}
for _, key in ipairs(redis.call('SUNION', unpack(KEYS))) do
  local seen = redis.call('HMGET', key, 'hostname', 'pid', 'state', 'queues', 'successful_job_count',
    'failed_job_count', 'birth', 'last_heartbeat', 'death', 'twintrack')
  if seen[7] and not seen[9] and not seen[10] then
    table.insert(seen, 1, key)
    for i = 1, 9 do
      seen[i] = seen[i] or ''
    end
    found[#found + 1] = {unpack(seen, 1, 9)}
  end
end
return found
