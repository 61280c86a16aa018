-- Push tickets to one queue, at its end or its head, and ring its bell.
--   KEYS[1]  set   rq:queues           the queues that RQ's tools list
--   KEYS[2]  list  rq:queue:NAME       job ids, popped on the left
--   KEYS[3]  list  bell of the queue   one entry wakes one idle worker; bounded
--   KEYS[4]  hash  overflow            exists while rows of this queue wait without a ticket
--              from  the lowest task id that may be without one: refills continue here
--              low   the lowest id that was refused since the refiller looked
--   rq:job:ID      hash                one per ticket, named from ARGV
-- ARGV: queue name, job key prefix, time text, push time (database clock, epoch seconds), keep seconds,
--       bell bound, end, missing, front or refill, window, from as the refiller knows it, its next from, 1 if no row follows,
--       then per ticket: job id, data, time-out in seconds, description. For the front they come last first.
--
-- At the end there is room for `window` tickets, and while an overflow exists a ticket from there on waits its turn: what
-- is refused opens the overflow or lowers `low`. `missing` is the same for tickets that have no hash yet. The front takes
-- all. A refill pushes what has no hash yet and moves `from`, or ends the overflow; it does nothing if somebody else has
-- moved `from`.
-- Returns how many were pushed (-1: from had moved) and, if a refill has ended the overflow, its `low` (else '').
local how = ARGV[7]
local from, room = false, math.huge
if how == 'refill' then
  if redis.call('HGET', KEYS[4], 'from') ~= ARGV[9] then return {-1, ''} end
elseif how ~= 'front' then
  from = redis.call('HGET', KEYS[4], 'from')
  room = tonumber(ARGV[8]) - redis.call('LLEN', KEYS[2])
end

-- decimal numbers of up to 19 digits: a Lua number would round them
local function less(a, b)
  return #a < #b or (#a == #b and a < b)
end

redis.call('SADD', KEYS[1], KEYS[2])
local ids, low = {}, false
for i = 12, #ARGV, 4 do
  local id, key = ARGV[i], ARGV[2] .. ARGV[i]
  local number = (from or room <= 0) and string.match(id, '^t(%d+)')
  if room <= 0 or (from and not less(number, from)) then
    if not low or less(number, low) then low = number end
  elseif how == 'end' or how == 'front' or redis.call('EXISTS', key) == 0 then
    redis.call('HSET', key,
      'status', 'queued', 'origin', ARGV[1], 'created_at', ARGV[3], 'enqueued_at', ARGV[3],
      'pushed_at', ARGV[4], 'result_ttl', ARGV[5], 'failure_ttl', ARGV[5],
      'data', ARGV[i + 1], 'timeout', ARGV[i + 2], 'description', ARGV[i + 3])
    ids[#ids + 1] = id
    room = room - 1
  end
end
if low and not from then
  redis.call('HSET', KEYS[4], 'from', low)
elseif low then
  local known = redis.call('HGET', KEYS[4], 'low')
  if not known or less(low, known) then redis.call('HSET', KEYS[4], 'low', low) end
end
if #ids > 0 then
  redis.call(how == 'front' and 'LPUSH' or 'RPUSH', KEYS[2], unpack(ids))
  for _ = 1, math.min(#ids, tonumber(ARGV[6]) - redis.call('LLEN', KEYS[3])) do
    redis.call('RPUSH', KEYS[3], '1')
  end
end
if how == 'refill' then
  if ARGV[11] == '1' then
    local late = redis.call('HGET', KEYS[4], 'low') or ''
    redis.call('DEL', KEYS[4])
    return {#ids, late}
  end
  redis.call('HSET', KEYS[4], 'from', ARGV[10])
end
return {#ids, ''}
