#!lua flags=allow-oom
-- A worker of ours leaves RQ's lists.
--   KEYS[1]   hash  rq:worker:W
--   KEYS[2]   set   rq:worker:W:executions
--   KEYS[3..] set   rq:workers, rq:workers:NAME of its queues
redis.call('DEL', KEYS[1], KEYS[2])
for i = 3, #KEYS do
  redis.call('SREM', KEYS[i], KEYS[1])
end
return true
