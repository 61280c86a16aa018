#!lua flags=allow-oom
-- End tickets: out of the in-flight list, into RQ's registries, so that RQ's own tools show the truth.
--   KEYS[1]  list  in-flight list of the worker
--   rq:job:ID      hash   gets status and times, and expires
--   rq:finished:NAME, rq:failed:NAME   zset  job id by expiry time; at most ARGV[4] entries are kept
-- ARGV: job key prefix, time text, now (epoch seconds), kept entries, keep seconds,
--       then per ticket: job id, word: finished, failed or gone (a stale ticket: its hash is deleted),
--       registry key (empty for gone), start time text
local now, kept, keep = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local touched = {}
for i = 6, #ARGV, 4 do
  local id, word, registry = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = ARGV[1] .. id
  redis.call('LREM', KEYS[1], 1, id)
  if word == 'gone' then
    redis.call('DEL', key)
  elseif redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'status', word, 'started_at', ARGV[i + 3], 'ended_at', ARGV[2])
    redis.call('EXPIRE', key, keep)
    redis.call('ZADD', registry, now + keep, id)
    touched[registry] = true
  end
end
for registry in pairs(touched) do
  local extra = redis.call('ZCARD', registry) - kept
  if extra > 0 then
    for _, id in ipairs(redis.call('ZRANGE', registry, 0, extra - 1)) do
      redis.call('DEL', ARGV[1] .. id)
    end
    redis.call('ZREMRANGEBYRANK', registry, 0, extra - 1)
  end
end
return true
