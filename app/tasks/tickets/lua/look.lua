-- One look at a queue, together with the incarnation of the server that answers it.
--   KEYS[1]  list    rq:queue:NAME
--   KEYS[2]  string  the marker: made here if it is missing, so a server that lost its data has a new one
-- ARGV: first index, last index of the part of the list to return, a fresh marker, job key prefix
-- Returns marker, server run id, replication id, length, push time of the head (or ''), job ids.
redis.call('SET', KEYS[2], ARGV[3], 'NX')
local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
local run_id = string.match(info, 'run_id:(%w+)') or ''
local replication_id = string.match(info, 'master_replid:(%w+)') or ''
local head = redis.call('LINDEX', KEYS[1], 0)
local pushed_at = ''
if head then
  pushed_at = redis.call('HGET', ARGV[4] .. head, 'pushed_at') or ''
end
return {
  redis.call('GET', KEYS[2]), run_id, replication_id, redis.call('LLEN', KEYS[1]), pushed_at,
  redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2]),
}
