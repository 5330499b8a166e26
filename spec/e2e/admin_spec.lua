--- The admin socket and the commands that use it, from outside: for people, as JSON, and when things go wrong.
local server = require "spec.support.server"
local cli = require "spec.support.cli"
local http = require "spec.support.http"
local json = require "spec.support.json"
local prometheus = require "spec.support.prometheus"
local tiny = require "spec.support.tiny"
local ffi = require "ffi"

local weights = os.tmpname()
tiny.write(weights)

local shell, read, write = server.shell, server.read_file, server.write_file

--- The admin socket's own HTTP, without the command between.
local function socket(s)
  return ("unix:%s/run/%d.admin"):format(s.dir, s.pid)
end

local function ask(s, o)
  o.timeout = o.timeout or server.PATIENCE
  return http.request(socket(s), o)
end

local function facts(s, name)
  return ask(s, { path = "/models/" .. (name or "smol") }):json()
end

local function until_facts(s, want, name)
  local last
  return server.until_true(function() return "the model is " .. json.encode(last) end, function()
    last = facts(s, name)
    for key, value in pairs(want) do
      if last[key] ~= value then
        return nil
      end
    end
    return last
  end)
end

local function boot(o)
  o = o or {}
  o.models = o.models or { smol = o.model or {} }
  o.model = nil
  for _, model in pairs(o.models) do
    model.source = model.source or weights
  end
  o.fake = o.fake or { delay_ms = 5 }
  return server.boot(o)
end

describe("the admin socket", function()
  after_each(server.cleanup)

  it("is its user's alone, and goes with the server", function()
    local s = boot()
    assert.equal("600 socket\n", shell(("stat -c '%%a %%F' %s/run/%d.admin"):format(s.dir, s.pid)))
    assert.equal("700\n", shell(("stat -c %%a %s/run"):format(s.dir)))
    local path = ("%s/run/%d.admin"):format(s.dir, s.pid)
    s:signal(15)
    assert.same({ code = 0 }, s:wait())
    assert.is_nil(io.open(path))
  end)

  it("answers HTTP with JSON; what it refuses has a code and a message", function()
    local s = boot()
    for _, case in ipairs {
      { "GET", "/nothing", nil, 404, "not_found", "there are: /server, /status, /models" },
      { "GET", "/", nil, 404, "not_found", "there are: " },
      { "GET", "/models/smol/load", nil, 405, "method_not_allowed", "/models/smol/load takes POST" },
      { "POST", "/status", nil, 405, "method_not_allowed", "/status takes GET" },
      { "GET", "/models/smoll", nil, 404, "not_found", "no model 'smoll': did you mean 'smol'?" },
      { "GET", "/models/a%2Fb", nil, 404, "not_found", "no model 'a/b'; there are: smol" },
      { "GET", "/models/%zz", nil, 400, "bad_request", "" },
      { "GET", "/decisions?after=x", nil, 400, "invalid_argument", "after must be a whole number from 0 to " },
      { "GET", "/decisions?wait=61", nil, 400, "invalid_argument", "wait must be a whole number from 0 to 60" },
      { "POST", "/reload", "[]", 400, "invalid_argument", "the body must be a JSON object" },
      { "POST", "/reload", "{", 400, "invalid_argument", "the body is no JSON object: line 1, column 2" },
      { "POST", "/reload", '{"dry":true}', 400, "invalid_argument", "unknown key 'dry': there is only 'dry_run'" },
      { "POST", "/reload", '{"dry_run":1}', 400, "invalid_argument", "'dry_run' must be true or false" },
      { "POST", "/rollback", '{"generation":1.5}', 400, "invalid_argument", "'generation' must be a generation's number" },
      { "POST", "/rollback", '{"generation":"1"}', 400, "invalid_argument", "'generation' must be a generation's number" },
      { "POST", "/models/nix/load", nil, 404, "not_found", "no model 'nix'; there are: smol" },
      { "POST", "/models/smol/scale", nil, 400, "invalid_argument", "the body must be a JSON object of settings" },
      { "POST", "/models/smol/scale", "{}", 400, "invalid_argument", "no setting is given" },
      { "POST", "/models/smol/scale", '{"min_replica":1}', 400, "invalid_argument", "did you mean 'min_replicas'?" },
      { "POST", "/models/smol/scale", '{"colour":1}', 400, "invalid_argument", "there are: min_replicas, max_replicas, scaledown_window" },
      { "POST", "/models/smol/scale", '{"min_replicas":"1"}', 400, "invalid_argument", "'min_replicas' must be a number, or null" },
      { "POST", "/models/smol/scale", '{"min_replicas":0.5}', 400, "invalid_argument", "'min_replicas' must be a whole number from 0 to 1024, not 0.5" },
      { "POST", "/models/smol/scale", '{"queue.timeout":-1}', 400, "invalid_argument", "'queue.timeout' must be seconds from 0 to 86400, not -1" },
      { "POST", "/models/smol/scale", '{"queue.max":1,"queue.max":null}', 400, "invalid_argument", "'queue.max' is given twice" },
      { "POST", "/reload", (" "):rep(70000), 413, nil, "" },
    } do
      local r = ask(s, { method = case[1], path = case[2], body = case[3] })
      local e = r:json().error
      assert.equal(case[4], r.status, case[1] .. " " .. case[2] .. " " .. tostring(case[3]):sub(1, 50))
      assert.equal(case[5] or e.code, e.code)
      assert.is_truthy(e.message:find(case[6], 1, true), e.message)
    end
    local r = ask(s, { path = "/server" })
    assert.equal("application/json", r.headers["content-type"])
    assert.same({ s.pid, s:pids().gateway }, { r:json().pid, r:json().gateway })
    assert.equal(s.conf_path, r:json().configuration)
    assert.same({ s.url }, r:json().addresses)
    assert.equal("", ask(s, { method = "HEAD", path = "/server" }).body or "")
  end)

  it("outlives garbage, silent clients and those that leave while they wait", function()
    local s = boot()
    for _, text in ipairs { "\0\1\2\3garbage\r\n\r\n", "GET\r\n\r\n", "GET /status HTTP/9.9\r\n\r\n", ("x"):rep(100000), "POST /reload HTTP/1.1\r\n" } do
      local c = http.connect(socket(s))
      c:send(text, true)
      c:close()
    end
    local held = {}
    for i = 1, 40 do -- of the 64 connections there may be
      held[i] = http.connect(socket(s))
      if i % 2 == 0 then
        held[i]:send "GET /sta"
      end
    end
    for _ = 1, 20 do
      local c = http.connect(socket(s))
      c:send "GET /decisions?wait=60&after=9007199254740992 HTTP/1.1\r\nHost: x\r\n\r\n"
      c:close()
    end
    local at = http.now()
    assert.equal(200, ask(s, { path = "/status" }).status)
    assert.is_true(http.now() - at < 2 * server.slow)
    for _, c in ipairs(held) do
      c:close()
    end
    assert.equal(200, s:request({ path = "/healthz" }).status)
  end)

  it("lets a client wait for decisions, and answers when there is one, or when the time is over", function()
    local s = boot()
    local last = tonumber(ask(s, { path = "/decisions" }).headers["x-moonpool-last"])
    local at = http.now()
    local r = ask(s, { path = "/decisions?wait=1&after=" .. last })
    assert.equal("", r.body or "")
    assert.equal(last, tonumber(r.headers["x-moonpool-last"]))
    assert.is_true(http.now() - at >= 0.9)
    local c = http.connect(socket(s), { timeout = server.PATIENCE })
    c:send(("GET /decisions?wait=60&after=%d HTTP/1.1\r\nHost: x\r\n\r\n"):format(last))
    assert.equal(200, ask(s, { method = "POST", path = "/reload" }).status)
    r = c:response {}
    local d = json.decode((r.body:match "[^\n]+"))
    assert.same({ last + 1, "reload" }, { d.n, d.kind })
    assert.equal(tostring(s:pids().gateway), r.headers["x-moonpool-gateway"])
    c:close()
  end)
end)

describe("commands that ask a server", function()
  after_each(server.cleanup)

  it("say so when none runs, when several do, and when what they are told is wrong", function()
    local dir = server.folder { conf = 'local mp = require "moonpool"\nmp.server { listen = { "127.0.0.1:0" }, workers = 1 }\n' }
    for _, command in ipairs { "status", "models", "devices", "reload", "rollback", "generations", "decisions" } do
      local r = cli.run({ dir = dir }, command)
      assert.equal(2, r.code, command)
      assert.equal(("moonpool %s: no server runs here (looked for its socket in %s/run)\n"):format(command, dir), r.err)
      r = cli.run(nil, command, "--runtime")
      assert.equal(2, r.code)
      assert.matches("^moonpool " .. command .. ": %-%-runtime needs a value\n", r.err)
      r = cli.run(nil, command, "--timeout", "0")
      assert.equal(2, r.code)
      assert.matches("^moonpool " .. command .. ": %-%-timeout wants seconds, more than 0 and up to 86400, not '0'\n", r.err)
      r = cli.run(nil, command, "--colour")
      assert.equal(2, r.code)
      assert.matches("^moonpool " .. command .. ": unknown [%l]+ '%-%-colour'\n", r.err)
      r = cli.run(nil, command, "--help")
      assert.equal(0, r.code)
      assert.matches("usage: moonpool " .. command, r.out)
      assert.matches("Exit codes: 0 done; 1 the server refused or failed; 2 bad command line, or no server.", r.out)
    end
    for _, case in ipairs {
      { { "rollback", "two" }, "'two' is no generation's number: `moonpool generations` lists them" },
      { { "rollback", "1", "2" }, "one generation, not also '2'" },
      { { "status", "a.lua", "b.lua" }, "one configuration, not also 'b.lua'" },
      { { "models", "load" }, "load which model?" },
      { { "models", "load", "a", "b" }, "load one model at a time" },
      { { "models", "scale" }, "scale which model?" },
      { { "models", "scale", "a" }, "which settings? scale NAME min_replicas=1" },
      { { "models", "scale", "a", "min_replicas" }, "'min_replicas' is not KEY=VALUE" },
      { { "models", "scale", "a", "min_replicas=5m" }, "min_replicas=5m: that is no number; `default` is what the configuration says" },
      { { "models", "scale", "a", "queue.timeout=soon" }, "queue.timeout=soon: that is no number and no time like 5m; `default` is what the configuration says" },
      { { "models", "list", "a" }, "'list' is none of load, unload, scale" },
      { { "models", "--wait" }, "--wait is for load and unload" },
      { { "decisions", "--after", "x" }, "--after wants a decision's number, not 'x'" },
    } do
      local r = cli.run({ dir = dir }, unpack(case[1]))
      assert.equal(2, r.code, case[2])
      assert.equal(("moonpool %s: %s"):format(case[1][1], case[2]), r.err:match "^[^\n]*")
    end

    local a = server.boot { dir = dir }
    local other = server.folder { conf = 'local mp = require "moonpool"\nmp.server { listen = { "127.0.0.1:0" }, workers = 1 }\n' }
    local b = server.boot { dir = other, runtime = dir .. "/run", allow = { "the supervisor is gone" } }
    local r = cli.run(a, "status")
    assert.equal(2, r.code)
    assert.matches("^moonpool status: 2 servers run here: say which by %-%-conf CONF\n", r.err)
    for _, s in ipairs { a, b } do
      assert.is_truthy(r.err:find(("  pid %d, configuration %s, %s\n"):format(s.pid, s.conf_path, s.url), 1, true), r.err)
      assert.equal(s.pid, cli.run(a, "status", "--json", s.conf_path):json().pid)
      assert.equal(s.pid, cli.run(a, "status", "--json", "--conf", s.conf_path):json().pid)
    end
    write(other .. "/third.lua", "")
    r = cli.run(a, "reload", other .. "/third.lua")
    assert.equal(2, r.code)
    assert.matches("^moonpool reload: no server here serves .*/third.lua; there are:\n  pid %d+", r.err)
    r = cli.run(a, "reload", other .. "/fourth.lua")
    assert.equal(2, r.code)
    assert.matches("^moonpool reload: .*/fourth.lua: No such file or directory\n$", r.err)
    b:signal(9)
    b:wait()
    assert.equal(a.pid, cli.run(a, "status", "--json"):json().pid) -- a killed one's socket is nobody's
    b:stop { signal = 9 }
    os.remove(("%s/run/%d.admin"):format(dir, b.pid))
  end)

  it("show the server to people, and as it says it", function()
    local s = boot()
    local r = cli.run(s, "status")
    assert.equal(0, r.code)
    assert.matches(("^moonpool [%%d.]+, pid %d, up %%d[^,]*, ready\n"):format(s.pid), r.out)
    assert.is_truthy(r.out:find("configuration  " .. s.conf_path .. ", generation 1\n", 1, true), r.out)
    assert.is_truthy(r.out:find("addresses      " .. s.url .. "\n", 1, true))
    assert.matches("\nworkers        2\npolicy         default\n", r.out)
    assert.same({ "smol", "cold" }, { r:row("smol")[1], r:row("smol")[2] })
    assert.is_truthy(r:row "fake")
    for line in r.out:gmatch "[^\n]+" do
      assert.is_nil(line:match "%s$", line)
    end
    local j = cli.run(s, "status", "--json")
    assert.equal(0, j.code)
    local v = j:json()
    assert.equal(s.pid, v.pid)
    assert.equal(1, v.generation)
    assert.equal(2, v.workers)
    assert.is_true(v.ready)
    assert.is_false(v.stopping)
    assert.equal("smol", v.models[1].name)
    assert.equal("fake", v.devices[1].name)
    assert.equal(json.null, v.last_reload)
    assert.same({ name = "default", errors = {} }, v.policy)
    assert.equal(1, #v.generations)
    assert.equal(s.dir .. "/state", v.state)
    assert.is_true(v.uptime >= v.gateway_uptime - 0.1)
    r = cli.run(s, "models", "smol")
    assert.equal(0, r.code)
    assert.is_truthy(r.out:find("\nsource       " .. weights .. "\n", 1, true), r.out)
    assert.same({ "max_replicas", "1", "default" }, r:row "max_replicas")
    r = cli.run(s, "models", "nix")
    assert.same({ 1, "moonpool models: no model 'nix'; there are: smol\n" }, { r.code, r.err })
    r = cli.run(s, "devices")
    assert.equal(0, r.code)
    assert.matches("cuda: this build has no CUDA device\n", r.out)
    assert.equal("fake", cli.run(s, "devices", "--json"):json().devices[1].name)
    r = cli.run(nil, "help")
    for _, command in ipairs { "status", "models", "devices", "reload", "rollback", "generations", "decisions" } do
      assert.matches("\n  " .. command .. " +%l", r.out)
    end
  end)

  it("reload and roll back, and print what changed or everything that is wrong", function()
    local s = boot { allow = { "refused, generation 2 serves on" } }
    local first = read(s.conf_path)
    local r = cli.run(s, "reload")
    assert.same({ 0, "nothing changed: generation 1 serves\n", "" }, { r.code, r.out, r.err })
    write(s.conf_path, first .. '\nmp.endpoint { route = "GET /new", handle = function() return "new" end }\n')
    r = cli.run(s, "reload", "--dry-run")
    assert.equal(0, r.code)
    assert.matches("^fine: it would be generation 2\n  .*GET /new", r.out)
    assert.equal(404, s:request({ path = "/new" }).status)
    r = cli.run(s, "reload")
    assert.equal(0, r.code)
    assert.matches("^generation 2 serves\n  .*GET /new", r.out)
    assert.equal(200, s:request({ path = "/new" }).status)
    write(s.conf_path, first .. '\nmp.endpoint { route = "GET /new", handel = 1 }\nmp.modle "x" {}\n')
    r = cli.run(s, "reload", "--json")
    assert.equal(1, r.code)
    assert.equal("", r.out)
    assert.matches("moonpool.lua:34: mp.endpoint: unknown key 'handel'\n", r.err)
    assert.matches("moonpool.lua:35: mp.modle is unknown: did you mean mp.model%?\n.*\n3 problems\n$", r.err)
    r = cli.run(s, "status")
    assert.matches("\nthe last reload failed, [%d.]+s ago: ", r.out)
    local last = cli.run(s, "status", "--json"):json().last_reload
    assert.same({ false, 2 }, { last.ok, last.generation })
    assert.equal(200, s:request({ path = "/new" }).status)
    r = cli.run(s, "rollback")
    assert.equal(0, r.code)
    assert.matches("^generation 1 serves\n", r.out)
    assert.equal(404, s:request({ path = "/new" }).status)
    local v = cli.run(s, "rollback", "2", "--json"):json()
    assert.same({ true, 2 }, { v.ok, v.generation })
    r = cli.run(s, "rollback", "7")
    assert.equal(1, r.code)
    assert.matches("^moonpool rollback: .*7", r.err)
    r = cli.run(s, "generations")
    assert.equal(0, r.code)
    assert.same({ "2", "active" }, { r.out:match "\n +(%d+)  (%l+)" })
    local list = cli.run(s, "generations", "--json"):json().generations
    assert.same({ 2, true, 1, false }, { list[1].generation, list[1].active, list[2].generation, list[2].active })
    local m = prometheus.read(ask(s, { path = "/metrics" }).body)
    assert.same({ 1, 3, 2 }, { prometheus.value(m, "moonpool_reloads_total", { result = "unchanged" }),
      prometheus.value(m, "moonpool_reloads_total", { result = "ok" }), prometheus.value(m, "moonpool_reloads_total", { result = "failed" }) })
    assert.equal(2, prometheus.value(m, "moonpool_generation"))
  end)

  it("say what is wrong with what answers, or does not", function()
    local C = require "spec.support.ffi"("core/wire/wire.h")
    local dir = server.folder { conf = "" }
    os.execute(("mkdir -m 700 %s/run"):format(dir))
    local path = ("%s/run/%s.admin"):format(dir, shell("echo $PPID"):match "%d+") -- a process that lives: this one
    local fd, err = ffi.new "int[1]", ffi.new "struct mp_err"
    assert.equal(0, C.mp_wire_listen(path, 16, fd, err))
    --- What a command says when its first connection is answered so, and all further ones too.
    local function answered(text, ...)
      local command, taken = cli.start({ dir = dir }, ...), ffi.new "int[1]"
      server.until_true("the command does not end", function()
        if C.mp_wire_accept(fd[0], taken, err) == 0 then
          local c = http.connect { fd = taken[0] }
          local request = c:receive() -- "": one that only looked whether somebody listens
          if request and request ~= "" then
            c:send(text, true)
          end
          c:close()
        end
        return not server.alive(command.pid)
      end)
      local code, said = command:wait(), command:text()
      command:stop()
      return code, said
    end
    assert.same({ 1, ("moonpool status: what answers at %s is no moonpool\n"):format(path) }, { answered("SSH-2.0-OpenSSH_9\r\n", "status") })
    local pid = path:match "(%d+)%.admin$"
    assert.same({ 1, ("moonpool devices: the gateway of the server (pid %s) ends each time before it has answered\n"):format(pid) },
      { answered("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this", "devices", "--timeout", "0.3") })
    assert.same({ 1, "moonpool reload: the gateway ended before it had answered, and is started again: `moonpool generations` tells what serves\n" },
      { answered("", "reload") })
    local code, said = answered("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[1,}", "models")
    assert.equal(1, code)
    assert.matches("^moonpool models: the server's answer cannot be read: not JSON: line 1", said)
    local r = cli.run({ dir = dir }, "generations", "--timeout", "0.2")
    assert.same({ 1, ("moonpool generations: the server (pid %s) has not answered in time (--timeout SECONDS)\n"):format(pid) }, { r.code, r.err })
    local typed = shell(("TERM=dumb timeout %d script -qec '%s status --timeout 1.5 --runtime %s/run' /dev/null </dev/null"):format(
      server.PATIENCE, server.binary, dir))
    assert.matches("^waiting for the server %(pid " .. pid .. "%)\r\nmoonpool status: the server ", typed)
    r = cli.run({ dir = dir }, "status", dir .. "/conf/moonpool.lua", "--timeout", "0.2")
    assert.equal(2, r.code)
    assert.matches("no server here serves .*; there is:\n  pid " .. pid .. ", does not answer\n$", r.err)
    ffi.C.close(fd[0])
    r = cli.run({ dir = dir }, "status") -- a socket that nobody listens on
    assert.matches("no server runs here", r.err)
    os.execute("chmod 000 " .. dir .. "/run")
    os.execute("rm -rf " .. dir)
  end)

  it("show a server that is not ready yet, and one that stops", function()
    local s = boot { model = { min_replicas = 1 }, fake = { load_ms = 1500, delay_ms = 20 }, ready = false, drain = 20 }
    local r = server.until_true("no status while it starts", function()
      local r = cli.run(s, "status")
      return r.code == 0 and r:row("smol")[2]:match "^loading" and r
    end)
    assert.matches("^moonpool [^\n]*, starting\n", r.out)
    s:until_ready()
    assert.matches("^moonpool [^\n]*, ready\n", cli.run(s, "status").out)
    local c, stream = s:story { content = "Hello", max_tokens = 100, temperature = 0 } -- random ones may end it sooner
    s:signal(15)
    s:until_line "gateway: stopping"
    r = cli.run(s, "status")
    assert.matches("^moonpool [^\n]*, stopping\n", r.out)
    assert.same({ 0, "1" }, { r.code, r:row("smol")[6] })
    assert.matches('"finish_reason":"length"', stream:rest())
    c:close()
    assert.same({ code = 0 }, s:wait())
    r = cli.run(s, "status")
    assert.equal(2, r.code)
  end)

  it("say so when the gateway ends during a reload", function()
    local s = boot { fake = { load_ms = 5000, delay_ms = 5 }, allow = { "gateway ended %(killed by signal 9" } }
    local first = read(s.conf_path)
    write(s.conf_path, first .. ('\nmp.model "second" { source = %q, devices = { "fake" }, preload = true }\n'):format(weights))
    local reload = cli.start(s, "reload")
    until_facts(s, { state = "loading" }, "second")
    server.kill(s:pids().gateway, 9)
    assert.equal(1, reload:wait())
    assert.equal("moonpool reload: the gateway ended before it had answered, and is started again: `moonpool generations` tells what serves\n",
      reload:text())
    reload:stop()
    local list = cli.run(s, "generations", "--json"):json().generations
    assert.same({ 1, true }, { list[1].generation, list[1].active })
  end)

  it("wait for the next gateway when one was killed", function()
    local s = boot { allow = { "gateway ended %(killed by signal 9" } }
    local before = s:pids().gateway
    for _ = 1, 3 do
      server.kill(s:pids().gateway, 9)
      local r = cli.run(s, "status", "--json")
      assert.equal(0, r.code, r.err)
      assert.equal(s.pid, r:json().pid)
    end
    server.until_true("the same gateway answers", function()
      return ask(s, { path = "/server" }):json().gateway ~= before
    end)
    local v = cli.run(s, "status", "--json"):json()
    assert.is_true(v.uptime >= v.gateway_uptime)
  end)
end)

describe("models, seen while it happens", function()
  after_each(server.cleanup)

  it("are loaded and let go when asked, with progress on a terminal", function()
    local s = boot { fake = { delay_ms = 5, load_ms = 1500 } }
    local r = cli.run(s, "models", "load", "smol")
    assert.same({ 0, "" }, { r.code, r.err })
    assert.matches("^smol: loading", r.out)
    local v = server.until_true("no progress is shown", function()
      local v = cli.run(s, "models", "smol", "--json"):json()
      return v.state == "loading" and v.loading.total > 0 and v
    end)
    assert.is_true(v.loading.done <= v.loading.total)
    assert.same({ "fake", 0 }, { v.group, v.calls })
    local shown = cli.run(s, "models"):row "smol"
    assert.matches("^loading", shown[2])
    r = cli.run(s, "models", "load", "smol", "--wait")
    assert.same({ 0, "" }, { r.code, r.err }) -- no terminal, no progress
    assert.matches("^smol: warm %(the load took 1%.%ds%)\n$", r.out)
    assert.equal("warm", cli.run(s, "models"):row("smol")[2])
    r = cli.run(s, "models", "unload", "smol", "--wait", "--json")
    assert.same({ 0, "cold" }, { r.code, r:json().state })
    assert.equal(1, r:json().loads)
    assert.is_true(r:json().load_seconds >= 1.4)
    local typed = shell(("TERM=dumb timeout %d script -qec '%s models load smol --wait --runtime %s/run' /dev/null </dev/null"):format(
      server.PATIENCE, server.binary, s.dir))
    assert.matches("smol: loading %d+%%, [%d.]+ %a+ of [%d.]+ %a+, [%d.]+s left", typed)
    assert.matches("smol: warm %(the load took 1%.%ds%)\r\n$", typed)
    local m = prometheus.read(ask(s, { path = "/metrics" }).body)
    assert.equal(2, prometheus.value(m, "moonpool_model_loads_total", { model = "smol", result = "ok" }))
    assert.equal(1, prometheus.value(m, "moonpool_model_unloads_total", { model = "smol", cause = "asked" }))
    assert.equal(1, prometheus.value(m, "moonpool_model_state", { model = "smol", state = "warm" }))
    assert.equal(1, prometheus.value(m, "moonpool_model_state", { model = "smol" }))
    assert.is_true(prometheus.value(m, "moonpool_model_load_seconds_total") >= 2.8)
    assert.equal(1, prometheus.value(m, "moonpool_engine_up", { device = "fake" }))
  end)

  it("do not let a command wait for a load that somebody called off", function()
    local s = boot { fake = { delay_ms = 5, load_ms = 60000 } }
    local said = "moonpool models: the load of model 'smol' was called off: by `models unload`, or because max_replicas is 0\n"
    for _, off in ipairs { { "unload", "smol" }, { "scale", "smol", "max_replicas=0" } } do
      local waits = cli.start(s, "models", "load", "smol", "--wait")
      until_facts(s, { state = "loading" })
      assert.equal(0, cli.run(s, "models", unpack(off)).code)
      assert.same({ 1, said }, { (waits:wait()), waits:text() })
      waits:stop()
    end
    assert.equal(0, cli.run(s, "models", "scale", "smol", "max_replicas=1").code)
    local v = cli.run(s, "models", "smol", "--json"):json()
    assert.same({ "cold", false }, { v.state, v.load_asked }) -- nor is it loaded once there may be a replica again
  end)

  it("show how many requests run and wait, and how they began", function()
    local s = boot { model = { max_concurrency = 2 }, fake = { delay_ms = 50 } }
    local open = {}
    for i = 1, 5 do
      open[i] = s:connect()
      open[i]:send(("POST /story HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"):format(
        #'{"content":"Hello","max_tokens":100}', '{"content":"Hello","max_tokens":100}'))
    end
    until_facts(s, { in_flight = 2, queued = 3, state = "warm" })
    local row = cli.run(s, "models"):row "smol"
    assert.same({ "warm", "2", "3", "now" }, { row[2], row[7], row[8], row[9] })
    row = cli.run(s, "status"):row "smol"
    assert.same({ "2", "3", "now" }, { row[6], row[7], row[8] })
    local m = prometheus.read(ask(s, { path = "/metrics" }).body)
    assert.same({ 2, 3 }, { prometheus.value(m, "moonpool_model_in_flight", { model = "smol" }),
      prometheus.value(m, "moonpool_model_queued", { model = "smol" }) })
    for _, c in ipairs(open) do
      c:close()
    end
    local v = until_facts(s, { in_flight = 0, queued = 0 })
    assert.equal(5, v.calls)
    assert.equal(5, v.cold_starts)
    assert.equal(200, s:chat().status)
    v = facts(s)
    assert.same({ 6, 5, 1 }, { v.calls, v.cold_starts, v.warm_starts })
    m = prometheus.read(ask(s, { path = "/metrics" }).body)
    assert.same({ 0, 0 }, { prometheus.value(m, "moonpool_model_in_flight"), prometheus.value(m, "moonpool_model_queued") })
    assert.equal(1, prometheus.value(m, "moonpool_requests_total", { model = "smol", endpoint = "POST /chat", start = "warm", status = "200" }))
  end)

  it("that cannot be loaded say why, and recover", function()
    local s = boot { fake = { fail_load = 1 }, allow = { "fail" } }
    local r = cli.run(s, "models", "load", "smol", "--wait")
    assert.equal(1, r.code)
    assert.equal("", r.out)
    assert.matches("^moonpool models: model 'smol' cannot be loaded: .+\n$", r.err)
    local v = facts(s)
    assert.equal("failed", v.state)
    assert.is_truthy(v.reason and v.error)
    local row = cli.run(s, "models"):row "smol"
    assert.equal("failed", row[2])
    assert.is_truthy(row[#row]:find(v.reason:sub(1, 20), 1, true), row[#row])
    assert.matches("\nstate        failed for [%d.]+s: ", cli.run(s, "models", "smol").out)
    local m = prometheus.read(ask(s, { path = "/metrics" }).body)
    assert.equal(1, prometheus.value(m, "moonpool_model_loads_total", { model = "smol", result = "failed" }))
    assert.equal(1, prometheus.value(m, "moonpool_model_state", { model = "smol", state = "failed" }))
    r = cli.run(s, "models", "load", "smol", "--wait")
    assert.same({ 0, "" }, { r.code, r.err })
    assert.equal("warm", facts(s).state)
    assert.is_nil(facts(s).reason)
  end)

  it("take other settings, which say where they come from", function()
    local s = boot { model = { max_concurrency = 3, startup_timeout = 50, schedules = {
      { cron = "* * * * *", tz = "Europe/Berlin", set = { startup_timeout = 70 } }, { cron = "0 0 1 1 *", set = { startup_timeout = 60 } } } } }
    local function setting(key)
      local row = cli.run(s, "models", "smol"):row(key)
      return row[2], row[3]
    end
    assert.same({ "3", "configuration" }, { setting "max_concurrency" })
    assert.same({ "64", "default" }, { setting "queue.max" })
    assert.same({ "70", "schedule: * * * * * Europe/Berlin" }, { setting "startup_timeout" })
    local r = cli.run(s, "models", "scale", "smol", "queue.max=10", "scaledown_window=1h30m", "queue.timeout=0.5")
    assert.same({ 0, "queue.max 10 (asked for)\nscaledown_window 5400 (asked for)\nqueue.timeout 0.5 (asked for)\n", "" }, { r.code, r.out, r.err })
    assert.same({ "10", "asked for" }, { setting "queue.max" })
    r = cli.run(s, "models", "scale", "smol", "queue.max=default", "min_replicas=1")
    assert.equal("queue.max 64 (default)\nmin_replicas 1 (asked for)\n", r.out)
    until_facts(s, { state = "warm" }) -- because of min_replicas
    for _, case in ipairs {
      { "min_replica=1", "unknown setting 'min_replica': did you mean 'min_replicas'?" },
      { "max_concurrency=0", "'max_concurrency' must be a whole number from 1 to 1024, not 0" },
      { "min_replicas=-1", "'min_replicas' must be a whole number from 0 to 1024, not -1" },
    } do
      r = cli.run(s, "models", "scale", "smol", case[1])
      assert.same({ 1, "moonpool models: " .. case[2] .. "\n" }, { r.code, r.err })
    end
    r = cli.run(s, "models", "scale", "smol", "max_concurrency=5", "--json")
    assert.same({ value = 5, from = "asked for" }, r:json().settings.max_concurrency)
    r = cli.run(s, "models", "scale", "nix", "max_concurrency=5")
    assert.same({ 1, "moonpool models: no model 'nix'; there are: smol\n" }, { r.code, r.err })
  end)

  it("are found by an alias, a name with a slash, and are gone after a reload without them", function()
    local s = boot { models = { ["org/big"] = { alias = "big" }, smol = {} } }
    local r = cli.run(s, "models", "load", "org/big", "--wait")
    assert.same({ 0, "" }, { r.code, r.err })
    assert.equal("warm", cli.run(s, "models", "big", "--json"):json().state)
    local text = read(s.conf_path):gsub('models%["org/big"%][^\n]*\n', "")
    write(s.conf_path, text)
    r = cli.run(s, "reload")
    assert.same({ 0, "" }, { r.code, r.err })
    server.until_true("the removed model is still shown", function()
      return #ask(s, { path = "/models" }):json().models == 1
    end)
    server.until_true("its gauges are still shown", function()
      return prometheus.value(prometheus.read(ask(s, { path = "/metrics" }).body), "moonpool_model_state", { model = "org/big" }) == nil
    end)
    r = cli.run(s, "models", "load", "big")
    assert.same({ 1, "moonpool models: no model 'big'; there are: smol\n" }, { r.code, r.err })
    write(s.conf_path, (text:gsub('mp%.model "smol" {', 'mp.model "other" { alias = "smol",'))) -- its name is an alias now
    assert.equal(0, cli.run(s, "reload").code)
    server.until_true("the renamed model is still shown", function()
      local all = ask(s, { path = "/models" }):json().models
      return #all == 1 and all[1].name == "other"
    end)
    local m = prometheus.read(ask(s, { path = "/metrics" }).body)
    assert.is_nil(prometheus.value(m, "moonpool_model_state", { model = "smol" }))
  end)
end)

describe("devices", function()
  after_each(server.cleanup)

  it("show whose memory is whose, and the swaps that come of it", function()
    local large = os.tmpname()
    finally(function() os.remove(large) end)
    tiny.write(large, { context = 8192 })
    local s = boot { models = { a = { source = large }, b = { source = large } } }
    local need = server.until_true("what a load needs is not known", function()
      local v = facts(s, "a")
      return v.need > 0 and v.need
    end)
    local first = read(s.conf_path)
    write(s.conf_path, first .. ('\nmp.device "fake" { memory = %d, max_wait = 7, min_residency = 0.1 }\n'):format(need * 1.5))
    assert.equal(0, cli.run(s, "reload").code)
    assert.equal(0, cli.run(s, "models", "load", "a", "--wait").code)
    local d = cli.run(s, "devices", "--json"):json().devices[1]
    assert.same({ "fake", math.floor(need * 1.5), need, 1, 0, 7 }, { d.name, d.memory, d.reserved, d.loaded, d.swaps, d.max_wait })
    local r = cli.run(s, "models", "load", "b", "--wait")
    assert.same({ 0, "" }, { r.code, r.err })
    d = cli.run(s, "devices", "--json"):json().devices[1]
    assert.same({ need, 1, 1 }, { d.reserved, d.loaded, d.swaps })
    local row = cli.run(s, "devices"):row "fake"
    assert.same({ "1", "1", tostring(s:pids()["engine fake"]) }, { row[5], row[6], row[7] })
    row = cli.run(s, "models"):row "a"
    assert.same({ "cold", "-" }, { row[2], row[5] })
    assert.matches("evict +%- +a +least recently used +%[default%]\n", cli.run(s, "decisions").out)
    local m = prometheus.read(ask(s, { path = "/metrics" }).body)
    assert.equal(1, prometheus.value(m, "moonpool_model_unloads_total", { model = "a", cause = "evicted" }))
    server.until_true("the swap is not counted", function()
      m = prometheus.read(ask(s, { path = "/metrics" }).body)
      return prometheus.value(m, "moonpool_device_swaps_total", { device = "fake" }) == 1
    end)
    assert.equal(math.floor(need * 1.5), prometheus.value(m, "moonpool_device_memory_bytes", { device = "fake" }))
    assert.equal(need, prometheus.value(m, "moonpool_model_memory_bytes", { model = "b", device = "fake" }))
    assert.equal(0, prometheus.value(m, "moonpool_model_memory_bytes", { model = "a", device = "fake" }))
  end)
end)

describe("decisions", function()
  after_each(server.cleanup)

  it("are followed as they come, across a killed gateway", function()
    local s = boot { allow = { "gateway ended %(killed by signal 9" }, endpoints = [[
      mp.policy "eager" { scale = function(pool) return pool.queued > 0 and 1 or 0, "because of " .. pool.queued end }
    ]] }
    local text = read(s.conf_path):gsub("workers = 2", 'workers = 2, policy = "eager"', 1)
    write(s.conf_path, text)
    local r = cli.run(s, "reload")
    assert.same({ 0, "" }, { r.code, r.err })
    local people, lines = cli.start(s, "decisions", "--follow"), cli.start(s, "decisions", "--follow", "--json")
    people:until_line "reload +%- +generation 2"
    lines:until_line '"kind":"reload"'
    assert.equal(200, s:chat().status)
    people:until_line "%d%d:%d%d:%d%d%.%d%d%d  scale +smol +1 +because of 1  %[eager%]"
    people:until_line "state +smol +cold %-> loading +[%l ]+"
    people:until_line "state +smol +loading %-> warm +loaded"
    local line = lines:until_line '[^\n]*"kind":"scale"[^\n]*"decision":"1"[^\n]*\n'
    local d = json.decode(line)
    assert.same({ "eager", "smol", "because of 1" }, { d.policy, d.model, d.reason })
    assert.equal(1, d.inputs.pool.queued)
    server.kill(s:pids().gateway, 9)
    people:until_line "the gateway was started again"
    cli.run(s, "reload")
    people:until_line "the gateway was started again\n.*reload +%- +unchanged"
    assert.equal(0, cli.run(s, "decisions").code)
    local after = cli.run(s, "decisions", "--after", "1", "--json")
    assert.is_nil(after.out:match '^{"n":1,')
    s:stop()
    assert.equal(1, people:wait())
    assert.matches("moonpool decisions: the server %(pid %d+%) is gone\n$", people:text())
    people:stop()
    lines:stop()
  end)

  it("that fell back are named in status", function()
    local s = boot { allow = { "policy" }, endpoints = [[
      mp.policy "broken" { scale = function(pool) error "no idea" end }
    ]] }
    local text = read(s.conf_path):gsub("workers = 2", 'workers = 2, policy = "broken"', 1)
    write(s.conf_path, text)
    assert.equal(0, cli.run(s, "reload").code)
    assert.equal(200, s:chat().status)
    local v = ask(s, { path = "/status" }):json()
    assert.equal("broken", v.policy.name)
    local e = v.policy.errors[1]
    assert.same({ "broken", "scale", "raised" }, { e.policy, e.slot, e.kind })
    assert.is_true(e.count >= 1)
    local r = cli.run(s, "status")
    assert.matches("\npolicy         broken\n", r.out)
    assert.matches("\npolicy broken, scale: raised: .*no idea.* ago%); the default decided\n", r.out)
    local m = prometheus.read(ask(s, { path = "/metrics" }).body)
    assert.is_true(prometheus.value(m, "moonpool_policy_errors_total", { policy = "broken", slot = "scale", kind = "raised" }) >= 1)
    assert.matches("fell back: ", cli.run(s, "decisions").out)
  end)
end)

describe("/metrics", function()
  after_each(server.cleanup)

  it("is on the public addresses only where the configuration asks for it", function()
    local s = boot()
    assert.equal(404, s:request({ path = "/metrics" }).status)
    assert.equal(200, ask(s, { path = "/metrics" }).status)
    local text = read(s.conf_path):gsub("workers = 2", "workers = 2, metrics = true", 1)
    write(s.conf_path, text)
    assert.equal(0, cli.run(s, "reload").code)
    assert.equal(200, s:chat().status)
    local r = s:request { path = "/metrics" }
    assert.equal(200, r.status)
    assert.equal("text/plain; version=0.0.4; charset=utf-8", r.headers["content-type"])
    local m = prometheus.read(r.body)
    assert.equal(1, prometheus.value(m, "moonpool_requests_total", { model = "smol", endpoint = "POST /chat", start = "cold", status = "200" }))
    assert.equal(1, prometheus.value(m, "moonpool_build_info"))
    assert.is_true(math.abs(prometheus.value(m, "moonpool_start_time_seconds") - os.time()) < 600)
    r = s:request { method = "POST", path = "/metrics" }
    assert.same({ 405, "GET, HEAD" }, { r.status, r.headers.allow })
  end)

  it("is what promtool takes without a complaint", function()
    local promtool = shell("command -v \"${PROMTOOL:-promtool}\""):match "%S+"
    if not promtool then
      return pending "promtool is not installed"
    end
    local s = boot()
    assert.equal(200, s:chat().status)
    cli.run(s, "reload")
    local path = os.tmpname()
    write(path, ask(s, { path = "/metrics" }).body)
    local said = shell(("%s check metrics < %s 2>&1; echo exit $?"):format(promtool, path))
    os.remove(path)
    assert.equal("exit 0\n", said)
  end)

  it("of 200 models takes no time that requests would notice", function()
    local models = {}
    for i = 1, 200 do
      models[("m%03d"):format(i)] = {}
    end
    local s = boot { models = models }
    local slowest = 0
    for _ = 1, 20 do
      local at = http.now()
      local m = prometheus.read(ask(s, { path = "/metrics" }).body)
      slowest = math.max(slowest, http.now() - at)
      assert.equal(200, prometheus.value(m, "moonpool_model_state", { state = "cold" }))
    end
    assert.is_true(slowest < 0.5 * server.slow, slowest) -- reading it in Lua takes most of that
    local at = http.now()
    local r = cli.run(s, "models")
    assert.is_true(http.now() - at < 2 * server.slow)
    assert.equal(201, select(2, r.out:gsub("\n", "")))
  end)
end)

teardown(function()
  os.remove(weights)
end)
