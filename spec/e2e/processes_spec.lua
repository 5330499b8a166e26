--- Three processes along fault lines: what each one's death costs, and what it does not. On the scripted device, so that a request
--- is under way exactly when its process dies.
local server = require "spec.support.server"
local http = require "spec.support.http"
local json = require "spec.support.json"

if not server.weights() then
  pending "the default model is not there: ./dev fetch, or MOONPOOL_MODELS"
  return
end

--- Endless text, a token every 20 ms.
local SLOW = { delay_ms = 20 }
local LONG = { content = "Hello", max_tokens = 1000 }

local function boot(o)
  o = o or {}
  o.model = o.model or { min_replicas = 1, context = 2048 }
  o.fake = o.fake or SLOW
  return server.boot(o)
end

describe("the three processes", function()
  after_each(server.cleanup)

  it("say in ps what they are", function()
    local s = boot()
    local pids = s:pids()
    assert.equal("moonpool: gateway", server.title(pids.gateway))
    assert.equal("moonpool: engine fake", server.title(pids["engine fake"]))
    assert.equal(2, #server.children(s.pid))
  end)

  it("name each model's device and state in the ready block", function()
    local s = boot()
    assert.matches("\n  models     smol: fake[^\n]*, warm", s:log())
  end)
end)

describe("a gateway that is killed", function()
  after_each(server.cleanup)

  it("leaves SIGTERM and SIGINT to the supervisor, as the engine does: the port stays open", function()
    local s = boot()
    local gateway = s:pids().gateway
    server.kill(gateway, 15)
    server.kill(gateway, 2)
    for _ = 1, 4 do -- whichever worker
      assert.equal(200, s:chat().status)
    end
    assert.equal(gateway, s:pids().gateway)
    local engine = s:pids()["engine fake"]
    server.kill(engine, 15)
    server.kill(engine, 2)
    assert.equal(200, s:chat().status)
    assert.equal(engine, s:pids()["engine fake"])
  end)

  it("takes its stop signal from the supervisor only, and no other for it", function()
    local s = boot()
    local gateway = s:pids().gateway
    server.kill(gateway, 10) -- SIGUSR1
    server.kill(gateway, 35) -- SIGRTMIN + 1, what the supervisor sends
    for _ = 1, 4 do -- whichever worker
      assert.equal(200, s:chat().status)
    end
    assert.equal(gateway, s:pids().gateway)
    assert.not_matches("stopping", s:log())
  end)

  it("is back within a second: same port, same generation, and the models stay loaded", function()
    local s = boot { allow = { "supervisor: gateway ended %(killed by signal 9" } }
    assert.equal(200, s:chat().status)
    local before = s:pids()
    server.write_file(s.conf_path, "this is no Lua")

    server.kill(before.gateway, 9)
    local started = http.now()
    local gateway = s:until_role("gateway", before.gateway)
    local answered = server.until_true("the port does not answer", function()
      local ok, r = pcall(s.request, s, { path = "/readyz" })
      return ok and r.status == 200
    end, 5)
    assert.is_true(answered)
    assert.is_true(http.now() - started < 1 * server.slow)

    local after = s:pids()
    assert.equal(gateway, after.gateway)
    assert.equal(before["engine fake"], after["engine fake"])
    local r = s:chat()
    assert.equal(200, r.status)
    assert.equal(1, s:until_state({ state = "warm" }).loads)
    s:until_line "back with generation 1, all models as before"
    local _, ready = s:log():gsub("\nready http", "")
    assert.equal(1, ready)
  end)

  it("leaves nothing running in the engine: its requests are cancelled", function()
    local s = boot { allow = { "supervisor: gateway ended" } }
    local c = s:story(LONG)
    s:until_state { running = 1 }
    local pid = s:pids().gateway
    server.kill(pid, 9)
    s:until_role("gateway", pid)
    c:close()
    s:until_line "back with generation"
    s:until_state { running = 0, state = "warm" }
  end)

  it("comes back again and again once it was ready", function()
    local s = boot { allow = { "supervisor: gateway ended" } }
    local pid = s:pids().gateway
    for _ = 1, 4 do
      server.kill(pid, 9)
      pid = s:until_role("gateway", pid)
    end
    server.until_true("the port does not answer", function()
      local ok, r = pcall(s.chat, s)
      return ok and r.status == 200
    end)
  end)

  it("ends the server when it keeps failing before it was ever ready", function()
    local s = boot { ready = false, allow = { "supervisor: gateway" } }
    s.expect = { code = 1 }
    local engine, pid = s:until_role "engine fake", nil
    server.kill(engine, 19) -- SIGSTOP: the gateway waits for it and is not ready
    for i = 1, 5 do
      pid = s:until_role("gateway", pid)
      server.kill(pid, 9)
      s:until_line(i == 5 and "giving up" or ("gateway ended.*"):rep(i))
    end
    server.kill(engine, 18)
    assert.same({ code = 1 }, s:wait())
    assert.matches("gateway failed 5 times within 10 s before it was ever ready %(last: killed by signal 9 %(Killed%)%): giving up", s:log())
  end)
end)

describe("an engine that is killed", function()
  after_each(server.cleanup)
  local expected = { "supervisor: engine fake ended", "request .*engine_lost" }

  it("ends running requests with 502, is started again, and loads its model again", function()
    local s = boot { allow = expected }
    local c = s:connect()
    c:send(("POST /chat HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s"):format(#json.encode(LONG), json.encode(LONG)))
    s:until_state { in_flight = 1, running = 1 }
    local before = s:pids()

    server.kill(before["engine fake"], 9)

    local r = c:response()
    assert.equal(502, r.status)
    local err = r:json().error
    assert.same({ "engine_lost", r.headers["x-request-id"] }, { err.code, err.request_id })
    assert.matches("the engine of model 'smol' ended while it worked on this request; it is restarted", err.message)
    c:close()

    s:until_role("engine fake", before["engine fake"])
    assert.equal(before.gateway, s:pids().gateway)
    assert.equal(1, s:until_state({ state = "warm", in_flight = 0 }).loads)
    assert.equal(200, s:chat().status)
  end)

  it("ends open streams with an error event", function()
    local s = boot { allow = expected }
    local c, r = s:story(LONG)
    assert.equal(200, r.status)
    local next_event = r:events()
    assert.is_string(json.decode(next_event().data).text)

    server.kill(s:pids()["engine fake"], 9)

    local last
    for event in next_event do
      last = event
    end
    assert.equal("engine_lost", json.decode(last.data).error.code)
    c:close()
    assert.equal(200, s:chat().status)
  end)

  it("lets a request that had not started wait for the next one", function()
    local s = boot { allow = expected }
    for _ = 1, 3 do
      local engine = s:pids()["engine fake"]
      server.kill(engine, 9)
      assert.equal(200, s:chat().status)
      s:until_role("engine fake", engine)
      s:until_state { state = "warm" }
    end
  end)

  it("by its own work, costs that request; the server goes on", function()
    local s = boot { fake = { crash_forward = 3 }, allow = expected }
    for _ = 1, 2 do
      assert.equal(502, s:chat(LONG).status)
      s:until_state { state = "warm" }
    end
    assert.equal(200, s:chat({ content = "Hello", max_tokens = 1 }).status)
  end)
end)

describe("a supervisor that is killed", function()
  after_each(server.cleanup)

  it("takes its children along, and the port is free", function()
    local s = boot { allow = { "the supervisor is gone", "supervisor" } }
    s.expect = { signal = 9 }
    local c = s:story(LONG)
    local pids = s:pids()
    s:signal(9)
    s:wait()
    for role, pid in pairs(pids) do
      server.until_true(role .. " is still there", function() return not server.alive(pid) end)
    end
    c:close()
    local again = server.boot { conf = server.read_file(s.conf_path), args = { "--listen", "127.0.0.1:" .. s.port }, fake = SLOW,
      state = s.dir .. "/state", runtime = s.dir .. "/run" }
    assert.equal(s.port, again.port)
    assert.equal(200, again:chat().status)
    again:stop()
  end)
end)

describe("an engine with nothing to do", function()
  after_each(server.cleanup)

  it("ends after its linger time, which is no failure, and is there again for the next request", function()
    local s = boot { args = { "--engine-linger", "0.3" }, model = { min_replicas = 0, context = 2048 }, allow = { "engine fake is away" } }
    s:until_line "supervisor: engine fake ended: nothing to do"
    assert.equal(200, s:chat().status)
    assert.equal(1, s:until_state({ state = "warm" }).loads)
    assert.is_nil(s:log():find("started again", 1, true))
  end)
end)
