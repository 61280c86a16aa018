-- Push tickets to one queue, at its end or its head, and ring its bell.
--   KEYS[1]  set   rq:queues           the queues that RQ's tools list
--   KEYS[2]  list  rq:queue:NAME       job ids, popped on the left
--   KEYS[3]  list  bell of the queue   one entry wakes one idle worker; bounded
--   rq:job:ID      hash                one per ticket, named from ARGV
-- ARGV: queue name, job key prefix, time text, push time (database clock, epoch seconds), keep seconds,
--       bell bound, RPUSH or LPUSH (then the tickets come last first), then per ticket: job id, data, time-out in seconds, description
-- Returns the queue's length.
redis.call('SADD', KEYS[1], KEYS[2])
local ids = {}
for i = 8, #ARGV, 4 do
  redis.call('HSET', ARGV[2] .. ARGV[i],
    'status', 'queued', 'origin', ARGV[1], 'created_at', ARGV[3], 'enqueued_at', ARGV[3],
    'pushed_at', ARGV[4], 'result_ttl', ARGV[5], 'failure_ttl', ARGV[5],
    'data', ARGV[i + 1], 'timeout', ARGV[i + 2], 'description', ARGV[i + 3])
  ids[#ids + 1] = ARGV[i]
end
local length = redis.call(ARGV[7], KEYS[2], unpack(ids))
local missing = math.min(#ids, tonumber(ARGV[6]) - redis.call('LLEN', KEYS[3]))
for _ = 1, missing do
  redis.call('RPUSH', KEYS[3], '1')
end
return length
