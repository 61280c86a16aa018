-- What an RQ worker that serves our queues is to do next, without losing it: a job goes into its queue's
-- intermediate list in the same step, where RQ's own maintenance finds it if the worker dies.
--   KEYS  list  rq:queue:NAME in order of service; rq:queue:NAME:intermediate gets what is taken
-- ARGV: how: 'any' takes the first job; 'first' takes it unless tickets stand before it; 'foreign' takes the first
--       job that is no ticket; 'look' finds that one and takes nothing;
--       then per key '1' if its tickets are ours
-- Returns position of the queue (1 = first), job id ('' for tickets that come first), how many queues before
-- it begin with tickets; or false.
local how, passed = ARGV[1], 0
for i, key in ipairs(KEYS) do
  local id = redis.call('LINDEX', key, 0)
  if id then
    local is_ticket = ARGV[i + 1] == '1' and string.match(id, '^t%d+%-e%d+$')
    if is_ticket and how == 'first' then
      return {i, '', passed}
    elseif is_ticket and how ~= 'any' then
      passed = passed + 1
    else
      if how ~= 'look' then
        redis.call('LMOVE', key, key .. ':intermediate', 'LEFT', 'RIGHT')
      end
      return {i, id, passed}
    end
  end
end
return false
