-- A mixture of what a shop asks: users, histories, filters of many prices, diverse lists, neighbors, unknown users.
local users, items
function init(args)
  users, items = tonumber(args[1]), tonumber(args[2])
  math.randomseed(os.time())
end
local headers = { ["Content-Type"] = "application/json" }
local function ask(fields)
  return wrk.format("POST", "/recommend", headers, "{" .. fields .. "}")
end
function request()
  local user = string.format('"user":"A%013d","k":20', math.random(0, users - 1))
  local kind = math.random(10)
  if kind == 1 then
    return ask(user .. string.format(',"filter":{"price":{"lt":%d.%d}}', math.random(5, 99), math.random(0, 9)))
  elseif kind == 2 then
    return ask(user .. ',"diversity":0.3')
  elseif kind == 3 then
    return ask(user .. string.format(',"parts":true,"branch_weights":{"text":%f}', math.random()))
  elseif kind == 4 then
    return ask(string.format('"user":"nobody%d","unknown":"popular"', math.random(1e9)))
  elseif kind == 5 then
    return wrk.format("GET", string.format("/similar/B%09d?k=10", math.random(0, items - 1)))
  elseif kind == 6 then
    return ask(string.format('"user":"nobody%d"', math.random(1e9))) -- 404
  end
  return ask(user)
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"requests":%d,"failed":%d,"not_200":%d}\n', summary.requests,
    e.connect + e.read + e.write + e.timeout, e.status))
end
