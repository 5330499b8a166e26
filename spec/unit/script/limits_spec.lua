-- luacheck: no max line length (cases and expected texts stand on one line each)
--- core/script/run.c, watchdog.c: a script that loops, allocates or recurses without end costs its own request, never the next.
local script = require "spec.support.script"

-- With a collection at every chance the CPU's limit comes before the memory's: those cases are for the plain mode.
local stress = os.getenv "MOONPOOL_VM_GC" == "stress"
local tsan = os.getenv "MOONPOOL_SANITIZE" == "tsan"

--- An app with a hostile endpoint for each name, and one that must go on answering.
local function app_of(cases, server)
  local source = { server or "mp.server { limits = { burst = 0.01, cpu = 0.05 } }",
    "mp.endpoint { route = 'GET /fine', handle = function() return { ok = true } end }" }
  for name, body in pairs(cases) do
    source[#source + 1] = ("mp.endpoint { route = 'POST /%s', handle = function(req, res) %s\nend }"):format(name, body)
  end
  return script.app(table.concat(source, "\n"))
end

local function now()
  return tonumber(script.C.mp_clock_mono_ns()) / 1e9
end

local loops = {
  loop = "while true do end",
  pcall = "while true do pcall(function() while true do end end) end",
  xpcall = "xpcall(error, function() while true do end end) while true do end",
  coroutine = "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
  wrap = "while true do pcall(coroutine.wrap(function() while true do end end)) end",
  metamethod = "local t = setmetatable({}, { __index = function() while true do end end }) while true do pcall(function() return t.x end) end",
  load = "load('while true do end')() ",
  sort = "while true do pcall(table.sort, { 3, 2, 1, 5, 4 }, function() while true do end end) end",
  gsub = "while true do pcall(string.gsub, 'aaaa', 'a', function() while true do end end) end",
  tostring = "while true do pcall(tostring, setmetatable({}, { __tostring = function() while true do end end })) end",
  events = "local e = res:events() while true do end",
  all = "return mp.all { function() while true do end end }",
  nested = "coroutine.wrap(function() coroutine.wrap(function() pcall(function() while true do end end) end)() while true do end end)()",
}

-- core/vm/pattern.c; more of them, in C alone: spec/unit/vm/pattern_spec.lua
local patterns = {
  find = "local s = (('a'):rep(30) .. 'b'):find(('a*'):rep(30) .. 'c')",
  match = "local s = string.match(('a'):rep(30) .. 'b', ('(a-)'):rep(20) .. '%1c')",
  gmatch = "for s in (('a'):rep(30) .. 'b'):gmatch(('a*'):rep(30) .. 'c') do end",
  gsub = "local s = (('a'):rep(30) .. 'b'):gsub(('a?'):rep(30) .. ('a'):rep(30) .. 'c', '')",
  replacement = "local s = (('x'):rep(100000)):gsub('y*', ('%1'):rep(100000))",
  set = "local s = (('a'):rep(100000)):find('[' .. ('x'):rep(100000) .. ']')",
  callback = "local s = (('a'):rep(100000)):gsub('a', function() return (('a'):rep(30)):match(('a*'):rep(30) .. 'c') end)",
}

describe("a script that runs for too long", function()
  for name, body in pairs(loops) do
    it("is stopped: " .. name, function()
      local app = app_of { [name] = body }
      for _ = 1, 2 do
        local before = now()
        local r = app:request { path = "/" .. name }
        local seconds = now() - before
        assert.is_true(r.ended)
        if name == "events" then
          assert.matches('^{"error":{"code":"cpu_limit"', r.events[1])
          assert.equal("whole", r.finished)
        else
          assert.equal(500, r.status)
          assert.equal("cpu_limit", r:json().error.code)
          assert.equal("the request's script ran for too long and was stopped", r:json().error.message)
          assert.equal("req-1", r:json().error.request_id)
        end
        assert.is_true(seconds < (tsan and 5 or 1), seconds .. " s")
        assert.equal('{"ok":true}', app:request({ method = "GET", path = "/fine" }).body)
      end
      app:close()
    end)
  end

  for name, call in pairs(patterns) do
    it("is stopped within its burst: " .. name, function()
      local app = app_of { once = call, caught = "while true do pcall(function() " .. call .. " end) end" }
      for _, path in ipairs { "/once", "/caught" } do
        local before = os.clock() -- the CPU's time, as the burst is
        local r = app:request { path = path }
        local seconds = os.clock() - before
        assert.equal("cpu_limit", r:json().error.code)
        assert.is_true(seconds < (os.getenv "MOONPOOL_SANITIZE" and 1 or 0.05), seconds .. " s of CPU")
        assert.equal('{"ok":true}', app:request({ method = "GET", path = "/fine" }).body)
      end
      app:close()
    end)
  end

  it("is stopped by its total, however often it waits", function()
    local app = app_of({ x = "for i = 1, 1000 do local t = os.clock() while os.clock() - t < 0.005 do end mp.sleep(0.001) end" })
    local r = app:request({ path = "/x" }):wait()
    assert.equal("cpu_limit", r:json().error.code)
    app:close()
  end)

  it("is not stopped for the time it waits", function()
    local app = app_of { x = "for i = 1, 5 do mp.sleep(0.012) end return { ok = 1 }" }
    assert.equal('{"ok":1}', app:request({ path = "/x" }):wait().body)
    app:close()
  end)
end)

local hungry = {
  concat = "local s = 'x' while true do s = s .. s end",
  rep = "return ('x'):rep(1e9)",
  rep_of_format = "return (('%s'):format(('x'):rep(1e6))):rep(1e3)",
  rep_caught = "pcall(string.rep, 'x', 1e9) return { survived = true }",
  table = "local t = {} for i = 1, 1e9 do t[i] = { i } end",
  closures = "local t = {} while true do t[#t + 1] = function() return t end end",
  coroutines = "local t = {} while true do t[#t + 1] = coroutine.create(print) end",
  buffer = "local t = {} for i = 1, 1e6 do t[i] = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' .. i end return table.concat(t)",
  json = "return req:json()",
}

describe("a script that takes too much memory", function()
  if stress then
    pending "is stopped (not with a collection at every chance: the CPU's limit comes first)"
    return
  end
  for name, body in pairs(hungry) do
    it("is stopped: " .. name, function()
      local app = app_of({ [name] = body }, "mp.server { limits = { burst = 5, cpu = 20, run_memory = '2MiB' } }")
      for _ = 1, 2 do
        local before = os.clock()
        local r = app:request { path = "/" .. name, body = name == "json" and "[" .. ("{},"):rep(60000) .. "1]" or "" }
        assert.equal(500, r.status)
        assert.equal("memory_limit", r:json().error.code)
        assert.equal("the request's script used too much memory and was stopped", r:json().error.message)
        if name:match "^rep" then -- refused at once, not after a while of filling
          assert.is_true(os.clock() - before < (os.getenv "MOONPOOL_SANITIZE" and 0.5 or 0.01))
        end
        assert.equal('{"ok":true}', app:request({ method = "GET", path = "/fine" }).body)
      end
      app:close()
    end)
  end

  it("does not starve its neighbours: what it held is free again", function()
    local app = app_of({ x = hungry.table }, "mp.server { limits = { burst = 5, cpu = 20, run_memory = '8MiB', vm_memory = '32MiB' } }")
    for _ = 1, 20 do
      assert.equal("memory_limit", app:request({ path = "/x" }):json().error.code)
      assert.equal('{"ok":true}', app:request({ method = "GET", path = "/fine" }).body)
    end
    app:close()
  end)
end)

describe("a script that recurses without end", function()
  it("is an error of its own, quickly", function()
    local app = app_of({ x = "local function f() return 1 + f() end return f()",
      caught = "local function f() return 1 + f() end local ok = pcall(f) return { ok = ok }",
      meta = "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k .. 1] end return t.x" },
      "mp.server { limits = { burst = 5, cpu = 20 } }")
    local before = now()
    assert.equal("script_error", app:request({ path = "/x" }):json().error.code)
    assert.is_true(now() - before < (os.getenv "MOONPOOL_SANITIZE" and 2 or 0.3))
    assert.equal('{"ok":false}', app:request({ path = "/caught" }).body)
    assert.equal(500, app:request({ path = "/meta" }).status)
    app:close()
  end)
end)

describe("a script that reaches for what it shall not have", function()
  it("finds nothing", function()
    for _, body in ipairs {
      "x = 1", "_G.x = 1", "print = nil", "return newproxy()", "return getfenv()", "setfenv(1, {})", "return string.dump(print)", "return io.open('/')",
      "return os.execute('true')", "return debug.getinfo(1)", "return require 'ffi'", "return require 'jit'", "return package.loaded",
      "return dofile('x')", "return loadfile('x')", "collectgarbage()", "getmetatable('').__index.rep = nil", "setmetatable(req, {})",
      "getmetatable(mp).x = 1", "setmetatable(mp, {})", "load('\\27LJ')()",
    } do
      local app = app_of { x = body }
      local r = app:request { path = "/x" }
      assert.equal(500, r.status, body)
      assert.equal("script_error", r:json().error.code, body)
      app:close()
    end
  end)
end)

describe("the pending list", function()
  it("is run once at the end, whichever end that is", function()
    local app = script.app [[mp.server { limits = { burst = 0.01 } }
      local smol = mp.model "m" { source = "tiny.gguf" }
      local ask = { messages = { { role = "user", content = "x" } } }
      mp.endpoint { route = "POST /leave", handle = function() return smol:chat(ask) end }
      mp.endpoint { route = "POST /kill", handle = function() assert(smol:chat_stream(ask)) while true do end end }
      mp.endpoint { route = "POST /throw", handle = function() assert(smol:chat_stream(ask)) error "x" end }
      mp.endpoint { route = "POST /return", handle = function() assert(smol:chat_stream(ask)) return {} end }
      mp.endpoint { route = "POST /sibling", handle = function()
        return mp.all { function() return smol:chat(ask) end, function() mp.sleep(0.001) return nil, { code = "x", message = "y" } end } end }
      mp.endpoint { route = "POST /stop", handle = function() return smol:chat(ask) end }]]
    local r = app:request { path = "/leave" }
    assert.is_nil(app.calls[1].cancelled)
    r:leave()
    assert.is_true(app.calls[1].cancelled)
    assert.is_true(r.ended)
    r:leave()
    for i, path in ipairs { "/kill", "/throw", "/return" } do
      r = app:request { path = path }
      app.calls[i + 1]:prepared()
      assert.is_true(app.calls[i + 1].cancelled, path)
      assert.is_true(r.ended)
    end
    r = app:request({ path = "/sibling" }):wait()
    assert.equal("x", r:json().error.code)
    assert.is_true(app.calls[5].cancelled)
    r = app:request { path = "/stop" }
    script.C.mp_script_worker_cancel(app.worker, app.generation, "MP_CANCEL_SHUTDOWN")
    assert.is_true(app.calls[6].cancelled)
    assert.equal(503, r.status)
    app:close()
  end)
end)
