-- Where each queue's overflow begins, and how many tickets the queue holds. For the refiller alone: what was refused
-- below `from` lowers it here, before the rows are read, so that the read finds every refused row.
--   KEYS[1..n]     hash  overflow of a queue: from, low (push.lua)
--   KEYS[n+1..2n]  list  rq:queue:NAME
-- Returns per queue: from ('' if nothing overflows), length.
local answer, n = {}, #KEYS / 2
for i = 1, n do
  local from, low = unpack(redis.call('HMGET', KEYS[i], 'from', 'low'))
  if from and low then
    if #low < #from or (#low == #from and low < from) then
      from = low
      redis.call('HSET', KEYS[i], 'from', from)
    end
    redis.call('HDEL', KEYS[i], 'low')
  end
  answer[#answer + 1] = from or ''
  answer[#answer + 1] = redis.call('LLEN', KEYS[n + i])
end
return answer
