-- Random users ask for their best items; arguments: number of users, k.
local users, k
function init(args)
  users, k = tonumber(args[1]), args[2]
  math.randomseed(os.time() + tonumber(tostring(wrk.thread):match("0x(%x+)") or "1", 16) % 1000)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end
function request()
  return wrk.format(nil, "/recommend", nil, string.format('{"user":"A%013d","k":%s}', math.random(0, users - 1), k))
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"errors":%d}\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
