#!lua flags=allow-oom
-- End tickets: out of the in-flight list, into RQ's registries and results, so that RQ's own tools show the truth.
--   KEYS[1]  list  in-flight list of the worker
--   KEYS[2]  set   rq:worker:W:executions   those of them that present.lua has listed as running
--   rq:wip:NAME zset, rq:execution:ID:EXECUTION hash, rq:executions:ID zset   forget a listed run
--   rq:job:ID      hash    gets status, worker and times, and expires
--   rq:results:ID  stream  gets the return value, or the error
--   rq:finished:NAME, rq:failed:NAME   zset  job id by expiry time; at most ARGV[6] entries are kept
-- ARGV: job key prefix, result key prefix, registry key prefix, expiry time (epoch seconds), keep seconds,
--       kept entries, worker name, execution id,
--       then per group of tickets: word (finished, failed or gone: worth nothing, its hash is deleted),
--       queue name, start as text, start (epoch seconds), end as text, end, how many;
--       then per ticket of it: job id, return value or error as RQ packs it
local jobs, results, registries, expires, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local kept, worker, execution = tonumber(ARGV[6]), ARGV[7], ARGV[8]
local forms = {
  finished = {type = '1', field = 'return_value', opposite = 'failed'},
  failed = {type = '2', field = 'exc_string', opposite = 'finished'},
}

-- Returns false for a ticket whose hash is gone: nothing is left to file.
local function record(id, word, packed, at)
  local key, result, form = jobs .. id, results .. id, forms[word]
  if redis.call('EXPIRE', key, keep) == 0 then return false end
  redis.call('HSET', key, 'status', word, 'worker_name', worker,
    'started_at', ARGV[at + 2], 'ended_at', ARGV[at + 4], 'last_heartbeat', ARGV[at + 4])
  redis.call('XADD', result, '*', 'type', form.type, 'worker_name', worker, form.field, packed,
    'execution_id', execution, 'execution_started_at', ARGV[at + 3], 'execution_ended_at', ARGV[at + 5])
  redis.call('EXPIRE', result, keep)
  return true
end

local function file(word, queue, ids)
  local registry, scored = registries .. word .. ':' .. queue, {}
  for n, id in ipairs(ids) do
    scored[2 * n - 1], scored[2 * n] = expires, id
  end
  redis.call('ZADD', registry, unpack(scored))
  -- while it ran, RQ's clean-up may have filed one of them as abandoned
  redis.call('ZREM', registries .. forms[word].opposite .. ':' .. queue, unpack(ids))
  local extra = redis.call('ZCARD', registry) - kept
  if extra > 0 then
    local keys, dropped = {}, redis.call('ZPOPMIN', registry, math.min(extra, 1000))
    for n = 1, #dropped, 2 do
      keys[n], keys[n + 1] = jobs .. dropped[n], results .. dropped[n]
    end
    redis.call('DEL', unpack(keys))
  end
end

local listed = {}
for _, run in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  listed[run] = true
end

local function unlist(id, queue)
  local run = id .. ':' .. execution
  if not listed[run] then return end
  redis.call('SREM', KEYS[2], run)
  redis.call('ZREM', registries .. 'wip:' .. queue, run)
  redis.call('DEL', registries .. 'execution:' .. run, registries .. 'executions:' .. id)
end

local at = 9
while at <= #ARGV do
  local word, queue, count, filed = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 6]), {}
  for i = at + 7, at + 5 + 2 * count, 2 do
    local id = ARGV[i]
    redis.call('LREM', KEYS[1], 1, id)
    unlist(id, queue)
    if word == 'gone' then
      redis.call('DEL', jobs .. id)
    elseif record(id, word, ARGV[i + 1], at) then
      filed[#filed + 1] = id
    end
  end
  if #filed > 0 then file(word, queue, filed) end
  at = at + 7 + 2 * count
end
return true
