#!lua flags=allow-oom
-- Give tickets, taken but not claimed, back to the head of their queue in their old order.
--   KEYS[1]  list  in-flight list of the worker
--   KEYS[2]  list  rq:queue:NAME
-- ARGV: job ids in the order in which they were taken
for i = #ARGV, 1, -1 do
  redis.call('LREM', KEYS[1], 1, ARGV[i])
  redis.call('LPUSH', KEYS[2], ARGV[i])
end
return #ARGV
