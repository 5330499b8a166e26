-- luacheck: no max line length (cases stand on one line each)
--- Live edit: what a reload keeps, what it changes, how it fails, and that 300 of them cost nobody anything. On the scripted device, so that
--- streams are under way exactly when the configuration changes.
local server = require "spec.support.server"
local load = require "spec.support.load"
local http = require "spec.support.http"
local json = require "spec.support.json"
local cli = require "spec.support.cli"
local ffi = require "ffi"

if not server.weights() then
  pending "the default model is not there: ./dev fetch, or MOONPOOL_MODELS"
  return
end

local function read_number(path, pattern)
  local text = server.read_file(path)
  return tonumber(text and text:match(pattern))
end

--- The configuration of these specs: a model, GET /v that names the edit, POST /story (pumped in C), POST /shout (by hand, each event with the
--- edit that it came from).
local function configuration(o)
  o = o or {}
  local models = {}
  for name, keys in pairs(o.models or { smol = "" }) do
    models[#models + 1] = ('mp.model %q { source = %q, devices = { "fake" }, context = 2048, %s }'):format(name, o.source or server.weights(), keys)
  end
  table.sort(models)
  return ([[
local mp = require "moonpool"
mp.server { listen = { %s }, workers = %d%s }
%s
local V = %s
mp.endpoint { route = "GET /v", handle = function() return { v = V } end }
mp.endpoint { route = "POST /story", handle = function(req)
  local body = assert(req:json())
  return mp.models[body.model or "smol"]:chat_stream { messages = { { role = "user", content = body.content } }, max_tokens = body.max_tokens, temperature = 0 }
end }
mp.endpoint { route = "POST /chat", handle = function(req)
  local body = assert(req:json())
  local model = mp.models[body.model or "smol"]
  if not model then return mp.reply { status = 404, json = { error = "no such model" } } end
  local out, err = model:chat { messages = { { role = "user", content = body.content } }, max_tokens = body.max_tokens, temperature = 0 }
  if not out then return nil, err end
  return { text = out.text, v = V }
end }
mp.endpoint { route = "POST /shout", handle = function(req, res)
  local body = assert(req:json())
  local stream = assert(mp.models.smol:chat_stream { messages = { { role = "user", content = body.content } }, max_tokens = body.max_tokens, temperature = 0 })
  local events = res:events()
  for delta in stream:deltas() do
    if not events:send { text = delta.text, v = V } then return end
  end
  events:send { done = stream:result() ~= nil, v = V }
end }
mp.endpoint { route = "GET /models", handle = function()
  local out = {}
  for _, name in ipairs { "smol", "other" } do
    if mp.models[name] then out[name] = mp.models[name]:status() end
  end
  return out
end }
%s]]):format(o.listen or '"127.0.0.1:0"', o.workers or 2, o.server or "", table.concat(models, "\n"), tostring(o.v or 1), o.more or "")
end

local function boot(o)
  o = o or {}
  o.conf = o.conf or configuration(o)
  o.fake = o.fake or { delay_ms = 10 }
  return server.boot(o)
end

--- Writes the configuration (a text, or what `configuration` takes) and has it reloaded by SIGHUP: "ok", "unchanged" or "refused", and what was
--- said: what changed, or every error.
local function reload(s, conf)
  if conf then
    server.write_file(s.conf_path, type(conf) == "string" and conf or configuration(conf))
  end
  local from = #s:log() + 1
  s:signal(1)
  s:until_line("reload %(SIGHUP%)[^\n]*\n", from)
  local text = s:log():sub(from)
  local changes = text:match "reload %(SIGHUP%): generation %d+ serves now: ([^\n]*)"
  if changes then
    return "ok", changes
  elseif text:match "reload %(SIGHUP%): nothing changed" then
    return "unchanged", ""
  end
  return "refused", server.until_true("no errors in the log", function()
    local errors = s:log():sub(from):match "refused, generation %d+ serves on:\n(.+)$"
    return errors and errors:sub(-1) == "\n" and errors
  end)
end

local function version(s)
  return s:request({ path = "/v" }):json().v
end

local function shell(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

--- `moonpool reload`, that must succeed; what it printed.
local function reloaded(s, conf)
  server.write_file(s.conf_path, configuration(conf))
  local r = cli.run(s, "reload")
  assert.equal(0, r.code, r.err)
  return r.out
end

--- The events of a stream that is at its end: all text, and the last event.
local function finish(r)
  local text, last = {}, nil
  for event in r:events() do
    last = json.decode(event.data)
    text[#text + 1] = last.text
  end
  return table.concat(text), last
end

describe("a reload", function()
  after_each(server.cleanup)

  it("says what changed, in models, endpoints, the server and files", function()
    local s = boot { models = { smol = "max_concurrency = 16", other = "" } }
    local out = reloaded(s, { models = { smol = "max_concurrency = 8, scaledown_window = 60", third = "" }, server = ", limits = { burst = 0.02 }", v = 2,
      more = 'mp.endpoint { route = "GET /new", handle = function() return {} end }' })
    assert.matches("models: ~ smol %(max_concurrency 16 %-> 8, scaledown_window 300 %-> 60%), %+ third, %- other\n", out)
    assert.matches("endpoints: %+ GET /new\n", out)
    assert.matches("server: limits.burst 0.01 %-> 0.02\n", out)
    assert.matches("files: ~ [^\n]*conf/moonpool.lua\n", out)
    assert.equal(2, version(s))
    assert.equal(200, s:request({ path = "/new" }).status)
    s:until_line "reload %(asked%): generation 2 serves now: .*; files: ~"
  end)

  it("is nothing when nothing changed, and when asked to check only", function()
    local s = boot()
    assert.same({ "unchanged", "" }, { reload(s) })
    server.write_file(s.conf_path, configuration { v = 2 })
    local r = cli.run(s, "reload", "--dry-run")
    assert.equal(0, r.code, r.err)
    assert.matches("files: ~", r.out)
    assert.equal(1, version(s))
    assert.equal("1\n", server.read_file(s.dir .. "/state/active"))
    assert.same({ "ok" }, { (reload(s)) })
    assert.equal(2, version(s))
  end)

  it("is noticed on the same connection, while a request that runs ends as it began", function()
    local s = boot { fake = { delay_ms = 20 } }
    local keep = s:connect()
    assert.equal(1, keep:request({ path = "/v" }):json().v)
    local c = s:connect()
    local r = c:stream { path = "/shout", json = { content = "Hello", max_tokens = 50 } }
    reloaded(s, { v = 2 })
    assert.equal(2, keep:request({ path = "/v" }):json().v)
    local _, last = finish(r)
    assert.same({ done = true, v = 1 }, last)
  end)

  it("collapses SIGHUPs that come while one is under way", function()
    local s = boot()
    for v = 2, 30 do
      server.write_file(s.conf_path .. ".new", configuration { v = v })
      os.rename(s.conf_path .. ".new", s.conf_path)
      s:signal(1)
    end
    server.until_true("the last edit does not serve", function() return version(s) == 30 end)
    local _, n = s:log():gsub("serves now", "")
    assert.is_true(n >= 1 and n <= 29)
  end)

  it("takes SIGHUP at the gateway as at the supervisor", function()
    local s = boot()
    server.write_file(s.conf_path, configuration { v = 2 })
    server.kill(s:pids().gateway, 1)
    s:until_line "generation 2 serves now"
    assert.equal(2, version(s))
  end)

  it("waits, when told so early, until the server is ready", function()
    local s = boot { ready = false, models = { smol = "min_replicas = 1" }, fake = { load_ms = 300 } }
    s:until_role "gateway"
    s:signal(1)
    s:until_ready()
    s:until_line "reload %(SIGHUP%): nothing changed, generation 1 serves on"
  end)

  it("is refused while the server stops", function()
    local s = boot { allow = { "refused, generation 1" }, fake = { delay_ms = 20 } }
    local c, r = s:story { content = "Hello", max_tokens = 50 }
    server.write_file(s.conf_path, configuration { v = 2 })
    s:signal(15)
    s:until_line "stopping: no new requests"
    local answer = cli.run(s, "reload")
    assert.equal(1, answer.code)
    assert.matches("the server is stopping", answer.err)
    local _, last = finish(r)
    assert.is_true(last.done)
    c:close()
    assert.equal("1\n", server.read_file(s.dir .. "/state/active"))
  end)

  it("changes limits in place, without loading the model again", function()
    local s = boot { models = { smol = "min_replicas = 1, max_concurrency = 1" }, fake = { delay_ms = 20 } }
    local c, r = s:story { content = "Hello", max_tokens = 200 }
    s:until_state({ in_flight = 1 }, "smol")
    local c2 = s:connect()
    c2:send "POST /story HTTP/1.1\r\nhost: x\r\ncontent-length: 34\r\n\r\n{\"content\":\"Hello\",\"max_tokens\":4}"
    s:until_state({ in_flight = 1, waiting = 1 }, "smol")
    reloaded(s, { models = { smol = "min_replicas = 1, max_concurrency = 2" } })
    local _, last = finish(c2:head())
    assert.is_true(last.done)
    local state = s:until_state({ in_flight = 1 }, "smol") -- the long one
    assert.equal(1, state.loads)
    finish(r)
    c:close()
  end)

  it("lets a removed model end what it does, and lets it go", function()
    local s = boot { models = { smol = "", other = "min_replicas = 1" }, fake = { delay_ms = 20 } }
    local c = s:connect()
    local r = c:stream { path = "/story", json = { model = "other", content = "Hello", max_tokens = 50 } }
    assert.equal(200, r.status)
    local out = reloaded(s, { models = { smol = "" } })
    assert.matches("models: %- other\n", out)
    assert.equal(404, s:request({ path = "/chat", json = { model = "other", content = "x", max_tokens = 2 } }).status)
    local _, last = finish(r)
    assert.is_true(last.done)
    s:until_line "model 'other': draining %-> cold"
    reloaded(s, { models = { smol = "", other = "" }, v = 3 }) -- and it may come again
    assert.equal(200, s:request({ path = "/chat", json = { model = "other", content = "x", max_tokens = 2 } }).status)
  end)

  it("notices a weights file that was replaced at its path: drained, loaded anew, no request of both", function()
    local weights = os.tmpname() .. ".gguf"
    os.execute(("cp '%s' '%s'"):format(server.weights(), weights))
    local o = { source = weights, models = { smol = "min_replicas = 1" }, fake = { delay_ms = 20 } }
    local s = boot(o)
    assert.same({ "unchanged", "" }, { reload(s) })
    local c, r = s:story { content = "Hello", max_tokens = 50 }
    os.execute(("cp '%s' '%s.new' && mv '%s.new' '%s'"):format(weights, weights, weights, weights))
    local result, text = reload(s)
    assert.equal("ok", result)
    assert.matches("weights: ~ smol %(the file was replaced: requests wait while it is loaded anew%)", text)
    local answer = s:request { path = "/chat", json = { content = "Hello", max_tokens = 4 } } -- waits for the new one
    assert.equal(200, answer.status, answer.body)
    local _, last = finish(r)
    assert.is_true(last.done)
    server.until_true(function() return "it is not loaded again\n" .. json.encode(s:model("smol")) .. s:log() end, function() return s:model("smol").loads == 2 end)
    s:until_state({ state = "warm" }, "smol")
    assert.same({ "unchanged", "" }, { reload(s) })
    c:close()
    os.remove(weights)
  end)

  it("listens where the configuration says: what is new is added, what is gone is refused", function()
    local s = boot()
    local other = server.until_true("no free port", function() -- of a server that is gone
      local t = boot()
      local port = t.port
      t:stop()
      return port
    end)
    reloaded(s, { listen = ('"127.0.0.1:0", "127.0.0.1:%d"'):format(other), v = 2 })
    assert.equal(2, http.request("http://127.0.0.1:" .. other, { path = "/v" }):json().v)
    assert.equal(2, version(s))
    local keep = http.connect("http://127.0.0.1:" .. other)
    assert.equal(2, keep:request({ path = "/v" }):json().v)
    local out = reloaded(s, { v = 3 })
    assert.matches("server: listen %[127.0.0.1:0, 127.0.0.1:%d+%] %-> %[127.0.0.1:0%]\n", out)
    assert.equal(3, version(s))
    assert.equal(3, keep:request({ path = "/v" }):json().v) -- connections stay
    assert.is_false((pcall(http.request, "http://127.0.0.1:" .. other, { path = "/v" })))
    reloaded(s, { listen = ('"127.0.0.1:%d", "127.0.0.1:0"'):format(other), v = 4 })
    assert.equal(4, http.request("http://127.0.0.1:" .. other, { path = "/v" }):json().v)
  end)

  it("does not move a server that was told where to listen", function()
    local s = boot { args = { "--listen", "127.0.0.1:0" } }
    local out = reloaded(s, { listen = '"127.0.0.1:1"', v = 2 })
    assert.matches("listen: %-%-listen was given, and counts instead\n", out)
    assert.equal(2, version(s))
  end)

  it("brings the first model, and with it a device's engine", function()
    local s = boot { models = {} }
    assert.is_nil(s:pids()["engine fake"])
    reloaded(s, { models = { smol = "" } })
    for _ = 1, 4 do -- whichever worker
      assert.equal(200, s:request({ path = "/chat", json = { content = "x", max_tokens = 2 } }).status)
    end
    assert.equal(1, s:model("smol").loads)
  end)

  it("comes behind the one that is under way, however many ask at once", function()
    local s, running = boot { allow = { "rollback %(asked%) refused" } }, {} -- where none is before
    for v = 2, 9 do
      server.write_file(s.conf_path .. ".new", configuration { v = v })
      os.rename(s.conf_path .. ".new", s.conf_path)
      running[v] = cli.start(s, v % 2 == 0 and "reload" or "rollback")
    end
    for v = 2, 9 do
      running[v]:wait()
    end
    reload(s)
    assert.equal(9, version(s))
    local list, active = cli.run(s, "generations", "--json"):json().generations, 0
    for _, g in ipairs(list) do
      active = active + (g.active and 1 or 0)
      assert.is_false(g.draining)
    end
    assert.equal(1, active)
  end)

  it("loads a model first that is to be preloaded", function()
    local s = boot { fake = { delay_ms = 10, load_ms = 300 } }
    reloaded(s, { models = { smol = "", other = "preload = true" }, v = 2 })
    local model = s:request({ path = "/models" }):json().other
    assert.same({ "warm", 1 }, { model.state, model.loads })
    s:until_line "reload: model 'other' is loaded before generation 2 serves"
  end)
end)

describe("a reload that fails", function()
  after_each(server.cleanup)
  local allow = { "refused, generation 1 serves on" }

  --- name → what is written (configuration's options, or a whole text), files beside it, and every pattern that must be among the errors.
  local cases = {
    { "does not parse", "local mp = require 'moonpool'\nmp.model smol {", { "conf/moonpool.lua:2: .*expected near" } },
    { "knows no such key, or value, in several places", { models = { smol = "max_concurency = 3" }, more = 'mp.endpoint { route = "GET", handle = 3 }\nmp.endpont {}' },
      { "unknown key 'max_concurency'\n", "did you mean 'max_concurrency' ", "did you mean mp.endpoint%?", "'handle'", "%d problems" } },
    { "requires what is not there", { more = 'require "nowhere"' }, { "module 'nowhere' not found" } },
    { "raises", { more = 'error "on purpose"' }, { "conf/moonpool.lua:%d+: on purpose" } },
    { "never ends", { more = "while true do end" }, { "stopped" } },
    { "names a plugin that is not there", { server = ', use = { "nowhere" }' }, { "nowhere" } },
    { "has another number of workers", { workers = 3, v = 2 }, { "mp.server: 'workers' is fixed at start: it is 2, not 3\nstop moonpool and start it again to change it" } },
    { "names a model whose file is not there", { models = { smol = "", other = 'source = "nowhere.gguf"' }, source = nil, v = 2 }, { "no file for 'source' \"nowhere.gguf\"" } },
    { "has a policy that does not load", { server = ', policy = "mine"', more = 'mp.policy "mine" { scale = 3 }' }, { "mp.policy \"mine\"" } },
    { "wants to listen beyond loopback", { listen = '"127.0.0.1:0", "0.0.0.0:7171"' }, { "'listen%[2%]' goes beyond loopback" } },
  }
  for _, case in ipairs(cases) do
    it(case[1] .. ": the old one serves on, and every error is told", function()
      local s = boot { allow = allow }
      local gateway = s:pids().gateway
      server.write_file(s.conf_path, type(case[2]) == "string" and case[2] or configuration(case[2]))
      local r = cli.run(s, "reload")
      assert.equal(1, r.code)
      for _, pattern in ipairs(case[3]) do
        assert.matches(pattern, r.err)
      end
      assert.equal(1, version(s))
      assert.equal("1\n", server.read_file(s.dir .. "/state/active"))
      s:until_line "reload %(asked%) refused, generation 1 serves on:"
      assert.equal(gateway, s:pids().gateway)
      reloaded(s, { v = 2 })
      assert.equal(2, version(s))
    end)
  end

  it("wants an address that is taken, a corrupt model and another number of workers: all of it is told", function()
    local t, s = boot(), boot { allow = allow }
    server.write_file(s.dir .. "/conf/bad.gguf", "GGUF" .. ("x"):rep(1000))
    server.write_file(s.conf_path, configuration { listen = ('"127.0.0.1:0", "127.0.0.1:%d"'):format(t.port), workers = 3,
      more = 'mp.model "bad" { source = "bad.gguf", devices = { "fake" } }' })
    local r = cli.run(s, "reload")
    assert.equal(1, r.code)
    assert.matches("127.0.0.1:" .. t.port .. " is taken", r.err)
    assert.matches("'workers' is fixed at start", r.err)
    assert.matches("mp.model \"bad\": ", r.err)
    assert.matches("3 problems", r.err)
    assert.equal(1, version(s))
    reloaded(s, { v = 2 })
    assert.equal(1, s:request({ path = "/models" }):json().smol.state == "cold" and 1 or 0)
  end)

  it("brings a model that does not fit its device", function()
    local s = boot { allow = allow }
    server.write_file(s.conf_path, configuration { models = { smol = "", other = "" }, more = 'mp.device "fake" { memory = "1MiB" }' })
    local r = cli.run(s, "reload")
    assert.equal(1, r.code)
    assert.matches("needs %d+ MiB", r.err)
    assert.equal(1, version(s))
  end)

  it("brings a model that is to be preloaded and does not load", function()
    local s = boot { allow = { "refused, generation 1", "fail", "other" }, fake = { delay_ms = 10, fail_load = 1 } }
    server.write_file(s.conf_path, configuration { models = { smol = "", other = "preload = true" }, v = 2 })
    local r = cli.run(s, "reload")
    assert.equal(1, r.code)
    assert.matches("mp.model \"other\": it is to be preloaded and failed: ", r.err)
    assert.equal(1, version(s))
    assert.equal(404, s:request({ path = "/chat", json = { model = "other", content = "x", max_tokens = 2 } }).status)
    reloaded(s, { models = { smol = "", other = "" }, v = 3 })
  end)

  it("cannot write its snapshot", function()
    local s = boot { allow = allow }
    os.execute(("mv '%s/state/generations' '%s/state/kept' && touch '%s/state/generations'"):format(s.dir, s.dir, s.dir))
    server.write_file(s.conf_path, configuration { v = 2 })
    local r = cli.run(s, "reload")
    assert.equal(1, r.code)
    assert.matches("cannot write .*/state/generations/2", r.err)
    assert.equal(1, version(s))
  end)
end)

describe("a generation that was", function()
  after_each(server.cleanup)

  it("serves again after a rollback, from memory or from disk, and survives a crash then", function()
    local s = boot { allow = { "supervisor: gateway ended", "rollback .* refused" } }
    for v = 2, 6 do
      reloaded(s, { v = v })
    end
    local r = cli.run(s, "rollback")
    assert.equal(0, r.code, r.err)
    assert.matches("files: ~", r.out)
    assert.equal(5, version(s))
    assert.equal(0, cli.run(s, "rollback", "1").code) -- closed since long: from disk
    assert.equal(1, version(s))
    assert.equal(1, cli.run(s, "rollback").code) -- nothing before it
    assert.equal("1\n", server.read_file(s.dir .. "/state/active"))

    local gateway = s:pids().gateway
    server.kill(gateway, 9)
    s:until_role("gateway", gateway)
    s:until_line "back with generation 1, all models as before"
    assert.equal(1, version(s))
    assert.equal(0, cli.run(s, "rollback", "4").code)
    assert.equal(4, version(s))
    assert.equal(0, cli.run(s, "reload").code) -- what lies on disk
    assert.equal(6, version(s))
    assert.equal("7\n", server.read_file(s.dir .. "/state/active"))
    r = cli.run(s, "rollback", "99")
    assert.equal(1, r.code)
    assert.matches("there is no generation 99 to go back to", r.err)
  end)

  it("keeps its number when the server starts again, and its snapshots are bounded", function()
    local s = boot()
    for v = 2, 25 do
      reloaded(s, { v = v })
    end
    assert.equal(21, tonumber(shell("ls " .. s.dir .. "/state/generations | wc -l")))
    local list = cli.run(s, "generations", "--json"):json().generations
    assert.equal(21, #list)
    assert.same({ 25, true }, { list[1].generation, list[1].active })
    local in_memory = 0
    for _, g in ipairs(list) do
      in_memory = in_memory + (g.memory and 1 or 0)
    end
    assert.equal(3, in_memory)
    os.execute(("cp -r '%s/state' '%s.state'"):format(s.dir, s.dir))
    local state, conf = s.dir .. ".state", server.read_file(s.conf_path)
    local dir = s.dir
    s:stop()
    os.execute("mkdir -p " .. dir .. "/conf")
    server.write_file(dir .. "/conf/moonpool.lua", conf)
    s = boot { dir = dir, state = state }
    assert.equal("25\n", server.read_file(state .. "/active"))
    assert.equal(0, cli.run(s, "rollback", "24").code)
    assert.equal(24, version(s))
    s:stop()
    os.execute("rm -rf " .. state)
  end)

  it("ends its streams by an event when their time is over", function()
    local s = boot { fake = { delay_ms = 20 }, env = { MOONPOOL_DEBUG_DRAIN = "0.3" } }
    local c, r = s:story { content = "Hello", max_tokens = 1500 }
    local c2 = s:connect()
    c2:send "POST /chat HTTP/1.1\r\nhost: x\r\ncontent-length: 37\r\n\r\n{\"content\":\"Hello\",\"max_tokens\":1500}"
    s:until_state({ in_flight = 2 }, "smol")
    reloaded(s, { v = 2 })
    local _, last = finish(r)
    assert.equal("unavailable", last.error.code)
    assert.equal("the configuration was replaced while this ran, and an old one's time is bounded", last.error.message)
    assert.equal(503, c2:response().status)
    s:until_line "generation 1 was replaced and still runs 2 requests: they are ended, for their time is over"
    s:until_state({ in_flight = 0, running = 0 }, "smol")
    assert.equal(2, version(s))
    c:close()
    c2:close()
  end)

  it("ends its streams when old ones hold too much memory, the oldest first; idle ones just go", function()
    local hold = ', limits = { vm_memory = "200MiB" }'
    local ballast = 'local ballast = ("x"):rep(40 * 2^20)\nmp.endpoint { route = "GET /ballast", handle = function() return { n = #ballast } end }'
    local function heavy(v)
      return { v = v, server = hold, more = ballast, workers = 1 }
    end
    local s = boot { conf = configuration(heavy(1)), fake = { delay_ms = 20 } }
    local c, r = s:story { content = "Hello", max_tokens = 1500 }
    local streams = {}
    for v = 2, 5 do
      streams[v] = { s:story { content = "Hello", max_tokens = 1500 } }
      reloaded(s, heavy(v))
    end
    s:until_line "generation 1 was replaced and still runs 2 requests: they are ended, for old generations hold too much memory"
    local _, last = finish(r)
    assert.equal("unavailable", last.error.code)
    assert.is_nil(s:log():match "generation 4 was replaced")
    assert.equal(5, version(s))
    c:close()
    for _, st in pairs(streams) do
      st[1]:close()
    end
  end)
end)

describe("a gateway that is killed during a reload", function()
  after_each(server.cleanup)

  --- Some rounds on one server, and a new one then: the supervisor waits longer each time that a gateway dies young.
  local function rounds(first, n)
    local s = boot { allow = { "supervisor: gateway ended" }, models = { smol = "min_replicas = 1" }, v = first }
    local active = first
    for v = first + 1, first + n do
      local gateway = s:until_role("gateway", nil)
      server.write_file(s.conf_path .. ".new", configuration { v = v, models = { smol = "min_replicas = 1" } })
      os.rename(s.conf_path .. ".new", s.conf_path)
      local from = #s:log() + 1
      server.kill(gateway, 1)
      ffi.C.poll(nil, 0, (v * 7919 % 25) * server.slow) -- so long after the signal, in milliseconds
      local told = s:log():sub(from):match "serves now"
      server.kill(gateway, 9)
      s:until_role("gateway", gateway)
      local now = server.until_true("the port does not answer", function()
        local ok, got = pcall(version, s)
        return ok and got
      end)
      assert.is_true(now == v or (now == active and not told), ("edit %d serves, after %d, with %d on disk"):format(now, active, v))
      active = now
      s:until_line("back with generation", from)
    end
    assert.equal(1, s:until_state({ state = "warm" }, "smol").loads)
    assert.equal(200, s:request({ path = "/chat", json = { content = "x", max_tokens = 2 } }).status)
    s:stop()
  end

  it("is back with the one generation or the other, whenever that is", function()
    for i = 0, server.slow > 1 and 1 or 4 do
      rounds(i * 10, 5)
    end
  end)
end)

describe("serve --watch", function()
  after_each(server.cleanup)

  it("reloads when a file changes: written in place, renamed over, appearing, going", function()
    local s = boot { args = { "--watch" }, allow = { "reload %(watch%) refused" }, files = { ["part.lua"] = "return 1" },
      conf = configuration { v = 'require "part"' } }
    local function until_version(v)
      server.until_true("edit " .. v .. " does not serve", function() return version(s) == v end)
    end
    assert.equal(1, version(s))
    server.write_file(s.dir .. "/conf/part.lua", "return 2") -- in place
    until_version(2)
    server.write_file(s.dir .. "/conf/part.lua~", "return 3") -- as editors do
    os.rename(s.dir .. "/conf/part.lua~", s.dir .. "/conf/part.lua")
    until_version(3)
    os.rename(s.dir .. "/conf/part.lua", s.dir .. "/conf/elsewhere")
    s:until_line "reload %(watch%) refused, generation 3 serves on:\n.-module 'part' not found"
    os.execute("mkdir " .. s.dir .. "/conf/part") -- looked for, and not there: part/init.lua
    server.write_file(s.dir .. "/conf/part/init.lua", "return 4")
    until_version(4)
    server.write_file(s.conf_path, "this is no Lua")
    s:until_line "reload %(watch%) refused, generation 4 serves on:\n.-moonpool.lua:1:"
    server.write_file(s.conf_path, configuration { v = 5 })
    until_version(5)
    local lines = #s:log()
    server.write_file(s.dir .. "/conf/unrelated", "x")
    assert.equal(5, version(s))
    assert.equal("", s:log():sub(lines + 1))
  end)
end)

describe("300 reloads under load", function()
  after_each(server.cleanup)

  local N = server.slow > 1 and 60 or 300
  local TOKENS = 400

  --- Of the gateway: private memory in KiB, open descriptors, threads.
  local function costs(pid)
    local rollup = server.read_file("/proc/" .. pid .. "/smaps_rollup")
    local memory = 0
    for n in rollup:gmatch "Private_%a+: *(%d+) kB" do
      memory = memory + tonumber(n)
    end
    local fds = io.popen("ls /proc/" .. pid .. "/fd | wc -l")
    local n = tonumber(fds:read "*a")
    fds:close()
    return { memory = memory, fds = n, threads = read_number("/proc/" .. pid .. "/status", "Threads:%s*(%d+)") }
  end

  it("lose no request, end every stream on its own generation, load the model once, and leave nothing behind", function()
    local quick = boot { fake = { delay_ms = 0 }, models = { smol = "min_replicas = 1" } }
    local expected = quick:request({ path = "/chat", json = { content = "Hello", max_tokens = TOKENS } }):json().text
    assert(#expected > TOKENS)
    quick:stop()

    local s = boot { models = { smol = "min_replicas = 1, max_concurrency = 32" } }
    local pid = s:pids().gateway
    local written, served, done = 1, 1, 0 -- edits: on disk; known to serve; and how many reloads there were
    local streams, ended, seen_log = {}, 0, 0

    local function open(i)
      local path = i % 2 == 0 and "/story" or "/shout"
      local c = s:connect { timeout = 30 * server.slow }
      streams[i] = { c = c, path = path, least = served, r = c:stream { path = path, json = { content = "Hello", max_tokens = TOKENS } }, text = "" }
      assert.equal(200, streams[i].r.status)
    end

    --- Reads a stream to its end, and judges it.
    local function close(st)
      local text, last, v = {}, nil, nil
      for event in st.r:events() do
        last = json.decode(event.data)
        assert.is_nil(last.error, event.data)
        text[#text + 1] = last.text
        assert.equal(v or last.v, last.v, "a stream with two generations")
        v = last.v
      end
      assert.is_true(last.done)
      assert.is_true(expected == table.concat(text), "a stream of other bytes")
      if st.path == "/shout" then
        assert.is_true(v >= st.least and v <= written, "a stream of an edit that was not there")
      end
      st.c:close()
      ended = ended + 1
    end

    --- Those that look ended by their last bytes.
    local function turn_over()
      for i, st in ipairs(streams) do
        local data = st.c:drain()
        st.c.buffer = data -- kept for the reader
        if data:sub(-5) == "0\r\n\r\n" then
          close(st)
          open(i)
        end
      end
    end

    --- Called at its rate by the load: when the last reload is over, the next.
    local function edit()
      local log = s:log()
      for v in log:sub(seen_log + 1):gmatch "generation (%d+) serves now[^\n]*\n" do
        served, done = tonumber(v), done + 1
      end
      seen_log = #log:match "^.*\n"
      if served == written and written <= N then
        written = written + 1
        server.write_file(s.conf_path .. ".new", configuration { v = written, models = { smol = "min_replicas = 1, max_concurrency = 32" } })
        os.rename(s.conf_path .. ".new", s.conf_path)
        s:signal(1)
      end
      return "GET", "/v"
    end

    for i = 1, 20 do
      open(i)
    end
    local at_100, began, samples = nil, http.now(), {}
    while served <= N do
      local before = served
      local all = load.run(s.url, { seconds = 0.5, { rate = 100, request = function() return "GET", "/v" end }, { rate = 40, request = edit } })
      for _, a in ipairs(all) do
        assert.equal(200, a.status, a.body)
        local v = json.decode(a.body).v
        assert.is_true(v >= before and v <= written, ("edit %d answered while %d to %d served"):format(v, before, written))
      end
      turn_over()
      local cost = costs(pid)
      at_100 = at_100 or served > N / 3 and cost or nil
      samples[#samples + 1] = { served = served, memory = cost.memory }
      assert.is_true(http.now() - began < 120 * server.slow, "too slow: " .. served)
    end
    local at_end = costs(pid)
    for _, st in ipairs(streams) do
      close(st)
    end
    assert.equal(N, done)
    assert.is_true(ended >= 20)
    assert.equal(pid, s:pids().gateway)
    local state = s:request({ path = "/models" }):json().smol
    assert.equal(1, state.loads)
    assert.equal(at_100.threads, at_end.threads)
    assert.is_true(math.abs(at_end.fds - at_100.fds) <= 8, ("%d descriptors, then %d"):format(at_100.fds, at_end.fds)) -- the load's connections come and go
    if server.slow == 1 then -- what stays, not what a moment's requests and half-closed generations hold
      local function least(from, to)
        local memory = math.huge
        for _, sample in ipairs(samples) do
          if sample.served >= from and sample.served <= to then
            memory = math.min(memory, sample.memory)
          end
        end
        return memory
      end
      local early, late = least(N / 3, N * 0.55), least(N * 0.78, N + 1)
      assert.is_true(late - early <= 2048, ("%d KiB, then %d"):format(early, late))
    end
  end)
end)
