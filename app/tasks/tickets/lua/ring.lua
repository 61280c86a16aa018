#!lua flags=allow-oom
-- Ring bells: put entries into their lists, up to a bound.
--   KEYS  list  bells
-- ARGV: bound, word, then per bell how many entries
for i, key in ipairs(KEYS) do
  local entries = math.min(tonumber(ARGV[i + 2]), tonumber(ARGV[1]) - redis.call('LLEN', key))
  for _ = 1, entries do
    redis.call('LPUSH', key, ARGV[2])
  end
end
return true
