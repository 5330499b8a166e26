--- Stopping: SIGTERM lets running requests end, a second one does not; nothing is left behind (spec.support.server asserts that after
--- every case: exit code, log, processes, sockets).
local server = require "spec.support.server"
local json = require "spec.support.json"

if not server.weights() then
  pending "the default model is not there: ./dev fetch, or MOONPOOL_MODELS"
  return
end

local function boot(o)
  o.model = { min_replicas = 1, context = 2048 }
  o.fake = { delay_ms = 10 }
  return server.boot(o)
end

local function texts_and_last(response)
  local n, last = 0, nil
  for event in response:events() do
    last = json.decode(event.data)
    n = n + (last.text and 1 or 0)
  end
  return n, last
end

describe("SIGHUP", function()
  after_each(server.cleanup)

  it("does not end a server: it reloads", function()
    local s = boot {}
    s:signal(1)
    s:until_line "reload %(SIGHUP%): nothing changed, generation 1 serves on"
    assert.equal(200, s:request({ path = "/healthz" }).status)
  end)
end)

describe("SIGTERM", function()
  after_each(server.cleanup)

  for _, sig in ipairs { { 15, "SIGTERM" }, { 2, "SIGINT" } } do
    it("lets a stream end, refuses new connections, exits with 0 (" .. sig[2] .. ")", function()
      local s = boot { drain = 30 }
      local c, r = s:story { content = "Hello", max_tokens = 60 }
      s:signal(sig[1])
      s:until_line "gateway: stopping: no new requests, running ones get 30 s"
      server.until_true("connections are not refused", function()
        local ok, why = pcall(s.request, s, { path = "/healthz", timeout = 2 })
        return not ok and tostring(why):match "[Rr]efused"
      end)
      local n, last = texts_and_last(r)
      assert.is_true(n > 0)
      assert.equal("length", last.finish_reason)
      assert.equal(60, last.usage.completion_tokens)
      c:close()
      assert.same({ code = 0 }, s:wait())
    end)
  end

  it("says so on /readyz while connections are still accepted", function()
    local s = boot { drain = 30, args = { "--grace", "0.5" } }
    local c = s:connect()
    assert.equal(200, c:request({ path = "/readyz" }).status)
    s:signal(15)
    s:until_line "gateway: stopping"
    local r = s:request { path = "/readyz" }
    assert.same({ 503, "stopping" }, { r.status, r:json().status })
    assert.equal(200, s:request({ path = "/healthz" }).status)
    c:close()
    assert.same({ code = 0 }, s:wait())
  end)

  it("ends what still runs after the drain time with an error event", function()
    local s = boot { drain = 0.2 }
    local c, r = s:story { content = "Hello", max_tokens = 1500 }
    s:signal(15)
    local n, last = texts_and_last(r)
    assert.is_true(n > 0)
    assert.is_string(last.error.code)
    c:close()
    assert.same({ code = 0 }, s:wait())
  end)

  it("twice, ends at once", function()
    local s = boot { drain = 300 }
    local c, r = s:story { content = "Hello", max_tokens = 1500 }
    local next_event = r:events()
    next_event()
    s:signal(15)
    s:until_line "gateway: stopping"
    s:signal(15)
    assert.same({ code = 0 }, s:wait())
    c:close()
  end)

  it("before the server was ready, ends it", function()
    local s = boot { ready = false }
    s:until_role "gateway"
    s:signal(15)
    assert.same({ code = 0 }, s:wait())
  end)
end)
