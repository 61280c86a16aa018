#!lua flags=allow-oom
-- Withdraw tickets from a queue, wherever they stand in it.
--   KEYS[1]  list  rq:queue:NAME
--   rq:job:ID      hash  deleted with its ticket; one whose ticket was taken stays for whoever runs it, and
--                        expires in time if nobody does
-- ARGV: job key prefix, keep seconds of taken ones, 1 to take the first of each from the head or 0 for all, then job ids
-- Returns how many were in the queue.
local removed = 0
for i = 4, #ARGV do
  local count = redis.call('LREM', KEYS[1], ARGV[3], ARGV[i])
  if count > 0 then
    redis.call('DEL', ARGV[1] .. ARGV[i])
    removed = removed + count
  else
    redis.call('EXPIRE', ARGV[1] .. ARGV[i], ARGV[2])
  end
end
return removed
