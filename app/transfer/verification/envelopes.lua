#!lua flags=no-writes
-- What the envelopes of some tickets say, for the verifier. Reads only.
--   rq:job:ID  hash  data, origin, timeout, pushed_at (push.lua)
-- ARGV: job key prefix, then job ids
-- Returns a flat list: data, origin, timeout, pushed_at of each; false for what is not there.
local answer = {}
for i = 2, #ARGV do
  local fields = redis.call('HMGET', ARGV[1] .. ARGV[i], 'data', 'origin', 'timeout', 'pushed_at')
  for n = 1, 4 do
    answer[#answer + 1] = fields[n]
  end
end
return answer
