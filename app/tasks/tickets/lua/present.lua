#!lua flags=allow-oom
-- A worker of ours is alive: list it where RQ lists its workers, with what it has been running for a while.
--   KEYS[1]   hash  rq:worker:W              as RQ's own workers write it
--   KEYS[2]   set   rq:worker:W:executions   "job id:execution id" of what it runs
--   KEYS[3]   list  in-flight list of the worker: what is not in it has ended meanwhile
--   KEYS[4]   hash  rq:job:ID                of the running ticket; '' if there is none, as KEYS[5] to KEYS[8]
--   KEYS[5]   zset  rq:wip:NAME              "job id:execution id" by the time after which RQ calls it abandoned
--   KEYS[6]   hash  rq:execution:ID:EXECUTION
--   KEYS[7]   zset  rq:executions:ID
--   KEYS[8..] set   rq:workers, rq:workers:NAME of its queues
-- ARGV: seconds until the worker counts as dead, seconds until its run does, now as text, now (epoch seconds),
--       worker name, state, runs that finished and that failed since the last call, execution id, job id or '', start as text, start (epoch seconds),
--       then names and values of what does not change
local dead, abandoned, now_text, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local worker, job, execution = ARGV[5], ARGV[10], ARGV[9]
if redis.call('EXPIRE', KEYS[1], dead) == 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 13))
  redis.call('EXPIRE', KEYS[1], dead)
  for i = 8, #KEYS do
    redis.call('SADD', KEYS[i], KEYS[1])
  end
end
redis.call('HSET', KEYS[1], 'last_heartbeat', now_text, 'state', ARGV[6])
for field, runs in pairs({successful_job_count = ARGV[7], failed_job_count = ARGV[8]}) do
  if runs ~= '0' then redis.call('HINCRBY', KEYS[1], field, runs) end
end
if job == '' or redis.call('EXISTS', KEYS[4]) == 0 or not redis.call('LPOS', KEYS[3], job) then
  return 0
end
local run, expires = job .. ':' .. execution, math.floor(tonumber(now)) + tonumber(abandoned)
redis.call('HSET', KEYS[4], 'status', 'started', 'worker_name', worker,
  'started_at', ARGV[11], 'last_heartbeat', now_text)
redis.call('ZADD', KEYS[5], expires, run)
redis.call('HSET', KEYS[6], 'id', execution, 'job_id', job, 'created_at', ARGV[12],
  'last_heartbeat', now, 'worker_name', worker)
redis.call('EXPIRE', KEYS[6], abandoned)
redis.call('ZADD', KEYS[7], expires + 60, execution)
redis.call('EXPIRE', KEYS[7], abandoned + 60)
redis.call('SADD', KEYS[2], run)
redis.call('EXPIRE', KEYS[2], abandoned + 60)
return 1
