-- luacheck: no max line length (cases stand on one line each)
--- A hostile handler costs its own request and nobody else's: on one worker, beside 200 normal requests a second, one hostile request
--- every 100 ms, each kind in turn. Every normal request is answered within 30 ms, each hostile one with its own documented error
--- (lua/moonpool/README.md, "What stops a script").
local server = require "spec.support.server"
local load = require "spec.support.load"

-- name → handler's body, the code that the client gets, what the log says
local KINDS = {
  { "loop", "while true do end", "cpu_limit", "stopped at .-moonpool%.lua:%d+ after [%d.]+ ms of CPU time" },
  { "pcall", "while true do pcall(function() while true do end end) end", "cpu_limit", "after [%d.]+ ms of CPU time" },
  { "xpcall_handler", "xpcall(error, function() while true do end end)", "cpu_limit", "after [%d.]+ ms of CPU time" },
  { "coroutine", "while true do coroutine.resume(coroutine.create(function() while true do end end)) end", "cpu_limit", "after [%d.]+ ms of CPU time" },
  { "metamethod", "local t = setmetatable({}, { __index = function() while true do end end }) return t.x", "cpu_limit", "after [%d.]+ ms of CPU time" },
  { "load", "return load('while true do end')()", "cpu_limit", "after [%d.]+ ms of CPU time" },
  { "rep", "return ('x'):rep(2^30)", "memory_limit", "it held more memory than limits%.run_memory %(16777216 bytes%) allows" },
  { "tables", "local t = {} while true do t[#t + 1] = { #t } end", "?", "stopped" },
  { "pattern", "return (('a'):rep(30) .. 'b'):find(('a*'):rep(30) .. 'c')", "cpu_limit", "after [%d.]+ ms of CPU time" },
  { "sort", "local t = {} for i = 1, 1000 do t[i] = -i end table.sort(t, function() while true do end end)", "cpu_limit", "after [%d.]+ ms of CPU time" },
  { "recursion", "local function f() return 1 + f() end return f()", "script_error", "stack overflow" },
  { "global", "leak = 1", "script_error", "leak" },
  { "newproxy", "return newproxy(true)", "script_error", "newproxy" },
  { "log", "while true do mp.log.info(('x'):rep(1000)) end", "cpu_limit", "after [%d.]+ ms of CPU time" },
  { "print", "while true do print(('x'):rep(1000)) end", "cpu_limit", "after [%d.]+ ms of CPU time" },
}

local function configuration()
  local out = { [[
local mp = require "moonpool"
mp.server { listen = { "127.0.0.1:0" }, workers = 1, limits = { burst = 0.010 } }
mp.endpoint { route = "GET /fine", handle = function(req) return { ok = true, query = req.query.n } end }]] }
  for _, kind in ipairs(KINDS) do
    out[#out + 1] = ('mp.endpoint { route = "POST /%s", handle = function(req, res)\n%s\nend }'):format(kind[1], kind[2])
  end
  return table.concat(out, "\n")
end

local function window(s, seconds)
  return load.run(s.url, {
    seconds = seconds, watch = { s:pids().gateway, "" },
    { rate = 200, request = function(i) return "GET", "/fine?n=" .. i end },
    { rate = 10, request = function(i) return "POST", "/" .. KINDS[i % #KINDS + 1][1], "{}" end },
  })
end

local LIMIT = 0.030 * (server.slow > 1 and 20 or 1)

describe("one worker beside hostile handlers", function()
  after_each(server.cleanup)

  it("answers every other request within 30 ms, and each of them with its own error", function()
    local s = server.boot { conf = configuration(), allow = { "error gateway: script: request %x+: POST /" } }
    for i = 1, 20 do
      s:request { method = "GET", path = "/fine?n=" .. i }
    end
    local report, clean = {}, false
    for _ = 1, 3 do -- a machine that others use may stall for reasons of its own
      local all = window(s, server.slow > 1 and 3 or 6)
      local seen, normal = {}, 0
      for _, a in ipairs(all) do
        assert.is_truthy(a.latency, a.name .. " was not answered")
        if a.stream == 1 then
          normal = normal + 1
          assert.equal(200, a.status)
        else
          assert.equal(500, a.status, a.name)
          seen[a.name:sub(2)] = a.body:match '"code":"([%w_]+)"'
        end
      end
      for _, kind in ipairs(KINDS) do
        if kind[3] ~= "?" then
          assert.equal(kind[3], seen[kind[1]], kind[1])
        else
          assert.is_truthy(seen[kind[1]] == "cpu_limit" or seen[kind[1]] == "memory_limit")
        end
      end
      local own = load.worst(all, function(a) return a.stream == 1 and a.latency - a.stall end)
      local raw = load.worst(all, function(a) return a.stream == 1 and a.latency end)
      report[#report + 1] = ("%d normal requests, the slowest %.1f ms, %.1f of them the server's own"):format(normal, raw * 1000, own * 1000)
      clean = own <= LIMIT
      if clean then
        break
      end
    end
    if os.getenv "MOONPOOL_SPEC_REPORT" then
      print(table.concat(report, "\n"))
    end
    assert.is_true(clean, table.concat(report, "\n"))

    -- What the log says of each; and that a loop which logs neither fills the disk nor stops its worker.
    local said, lines, loops, dropped = {}, 0, 0, nil
    for line in s:log():gmatch "[^\n]+" do
      local name, text = line:match "POST /([%w_]+): (.*)$"
      if name then
        said[name] = text
        loops = loops + (name == "log" and 1 or 0)
      elseif line:find("xxxx request=", 1, true) then
        lines = lines + 1
      else
        dropped = dropped or line:match "script: (%d+) lines were not logged: a request may log 100, then 10 a second"
      end
    end
    for _, kind in ipairs(KINDS) do
      assert.matches(kind[4], said[kind[1]], kind[1])
    end
    assert.is_true(lines > 0 and lines <= 101 * loops, lines .. " lines of " .. loops .. " requests")
    assert.is_truthy(tonumber(dropped))
  end)
end)
