--- `moonpool serve` from outside: the ready block, the built-in routes, what it refuses to start with.
local server = require "spec.support.server"

local HELLO = [[
local mp = require "moonpool"
mp.server { listen = { "127.0.0.1:0" }, workers = 2 }
mp.endpoint { route = "GET /hi", handle = function(req) return { id = req.id } end }
mp.endpoint { route = "POST /echo", handle = function(req)
  local body, err = req:json()
  if not body then return nil, err end
  return body
end }
]]

local function refused(o, args)
  local dir = server.folder(o)
  local all = { "serve", "--state", dir .. "/state", "--runtime", dir .. "/run" }
  for _, a in ipairs(args or {}) do
    all[#all + 1] = a
  end
  all[#all + 1] = dir .. "/conf/moonpool.lua"
  local code, text = server.run(all)
  os.execute("rm -rf " .. dir)
  return code, (text:gsub(dir:gsub("%p", "%%%0"), "DIR"))
end

for _, mode in ipairs { { name = "plain" }, { name = "one byte at a time", env = { MOONPOOL_DEBUG_READ = 1 } } } do
  describe("a server, " .. mode.name, function()
    after_each(server.cleanup)

    it("says what it serves, and last that it is ready", function()
      local s = server.boot { conf = HELLO, env = mode.env }
      local block = s:log()
      assert.matches("^moonpool %d+%.%d+%.%d+\n", block)
      assert.matches("\n  listens    " .. s.url:gsub("%p", "%%%0") .. "\n", block)
      assert.matches("\n  routes     GET /hi\n             POST /echo\n             GET /healthz, /readyz\n", block)
      assert.matches("\n  not found  cuda: ", block)
      assert.matches("\nready http://127%.0%.0%.1:%d+\n$", block)
    end)

    it("answers on every worker, keeps connections, and names each request", function()
      local s = server.boot { conf = HELLO, env = mode.env }
      local seen = {}
      for _ = 1, 8 do
        local c = s:connect()
        for _ = 1, 3 do
          local r = c:request { path = "/hi" }
          assert.equal(200, r.status)
          assert.equal(r.headers["x-request-id"], r:json().id)
          assert.is_nil(seen[r:json().id])
          seen[r:json().id] = true
        end
        c:close()
      end
    end)

    it("has /healthz and /readyz, 404 and 405 with Allow", function()
      local s = server.boot { conf = HELLO, env = mode.env }
      local c = s:connect()
      assert.same({ status = "ok" }, c:request({ path = "/healthz" }):json())
      assert.same({ status = "ready" }, c:request({ path = "/readyz" }):json())
      local head = c:request { method = "HEAD", path = "/readyz" }
      assert.same({ 200, "" }, { head.status, head.body })

      local missing = c:request { path = "/nope?x=1" }
      assert.equal(404, missing.status)
      local err = missing:json().error
      assert.same({ "not_found", 404, missing.headers["x-request-id"], "no endpoint has this path: GET /nope" },
        { err.code, err.status, err.request_id, err.message })

      local wrong = c:request { method = "DELETE", path = "/echo" }
      assert.equal(405, wrong.status)
      assert.equal("method_not_allowed", wrong:json().error.code)
      assert.matches("POST", wrong.headers.allow)
      c:close()
      assert.equal("GET, HEAD", s:request({ path = "/healthz", body = "x" }).headers.allow)
      assert.equal(400, s:request({ path = "/%zz" }).status)
    end)
  end)
end

describe("a configuration's own /healthz", function()
  after_each(server.cleanup)
  it("goes before the built-in one", function()
    local s = server.boot { conf = HELLO .. 'mp.endpoint { route = "GET /healthz", handle = function() return { mine = true } end }' }
    assert.same({ mine = true }, s:request({ path = "/healthz" }):json())
  end)
end)

describe("serve", function()
  after_each(server.cleanup)

  it("takes its addresses from --listen before the configuration's", function()
    local s = server.boot { conf = HELLO:gsub("127.0.0.1:0", "127.0.0.1:1"), args = { "--listen", "127.0.0.1:0", "--listen", "[::1]:0" } }
    assert.matches("\n             http://%[::1%]:%d+\n", s:log())
    assert.equal(200, s:request({ path = "/hi" }).status)
  end)

  it("says who has the port", function()
    local first = server.boot { conf = HELLO }
    local address = "127.0.0.1:" .. first.port
    local code, text = refused({ conf = HELLO }, { "--listen", address })
    assert.equal(2, code)
    assert.equal("moonpool serve: " .. address .. " is taken: another program listens there (choose another with --listen)\n", text)
    assert.equal(200, first:request({ path = "/hi" }).status)
  end)

  it("says who has the state directory", function()
    local first = server.boot { conf = HELLO }
    local code, text = server.run { "serve", "--state", first.dir .. "/state", "--runtime", first.dir .. "/run", first.conf_path }
    assert.equal(2, code)
    assert.equal(("moonpool serve: the state directory %s/state is in use by moonpool serve, pid %d, configuration %s (another one: --state DIR)\n")
      :format(first.dir, first.pid, first.conf_path), text)
    assert.equal(200, first:request({ path = "/hi" }).status)
  end)

  it("stays on loopback, by option and by configuration", function()
    local why = ": without API keys moonpool listens on loopback only (127.0.0.1, [::1]), and keys are not yet built\n"
    local code, text = refused({ conf = HELLO }, { "--listen", "0.0.0.0:0" })
    assert.same({ 2, "moonpool serve: --listen 0.0.0.0:0" .. why }, { code, text })
    code, text = refused { conf = HELLO:gsub("127.0.0.1:0", "[::]:0") }
    assert.equal(2, code)
    assert.matches("loopback", text)
  end)

  it("judges addresses", function()
    for address, why in pairs {
      ["127.0.0.1"] = "'127.0.0.1' is no address: want ADDRESS:PORT, such as 127.0.0.1:7171 or [::1]:0",
      ["127.0.0.1:70000"] = "'127.0.0.1:70000' is no address: want ADDRESS:PORT, such as 127.0.0.1:7171 or [::1]:0",
      ["example.org:80"] = "'example.org:80' is no address: host names are not looked up; IPv6 addresses stand in brackets",
      [":80"] = "':80' is no address: the part before the port must be numeric",
      ["127.5.5.5:0x"] = "'127.5.5.5:0x' is no address: want ADDRESS:PORT, such as 127.0.0.1:7171 or [::1]:0",
    } do
      assert.same({ 2, "moonpool serve: " .. why .. "\n" }, { refused({ conf = HELLO }, { "--listen", address }) })
    end
  end)

  it("prints everything that is wrong with a configuration, once, and exits with 2", function()
    local code, text = refused { conf = HELLO .. 'mp.endpoint { rout = "GET /x" }\nmp.model "m" { source = "gone.gguf" }\n' }
    assert.equal(2, code)
    assert.matches("unknown key 'rout'", text)
    assert.matches("gone%.gguf", text)
    local _, times = text:gsub("unknown key 'rout'", "")
    assert.equal(1, times)
    assert.is_nil(text:match "started again")
  end)

  it("says when a configuration does not run at all", function()
    local code, text = refused { conf = 'local mp = require "moonpool"\nerror "boom"\n' }
    assert.equal(2, code)
    assert.matches("moonpool%.lua:2: boom", text)
    local dir = server.folder { conf = HELLO }
    code, text = server.run { "serve", "--state", dir .. "/conf/moonpool.lua/x", "nothing.lua" }
    assert.equal(2, code)
    assert.matches("^moonpool serve: cannot make the directory .*moonpool%.lua/x: Not a directory\n$", text)
    code, text = server.run { "serve", "--state", dir .. "/s", "--runtime", dir .. "/r", dir .. "/conf/nothing.lua" }
    os.execute("rm -rf " .. dir)
    assert.equal(2, code)
    assert.matches("nothing%.lua: no such file", text)
  end)

  it("wants its sockets where nobody else may enter, under a short name", function()
    local dir = server.folder { conf = HELLO }
    os.execute(("mkdir -p %s/open && chmod 755 %s/open"):format(dir, dir))
    local code, text = server.run { "serve", "--state", dir .. "/s", "--runtime", dir .. "/open", dir .. "/conf/moonpool.lua" }
    os.execute("rm -rf " .. dir)
    assert.equal(2, code)
    assert.matches("/open must be a directory of yours that nobody else may enter %(mode 0700%)", text)
  end)

  it("knows its options", function()
    for _, case in ipairs {
      { { "serve" }, "which configuration%?" },
      { { "serve", "--lissten", "x", "c.lua" }, "unknown option '%-%-lissten'" },
      { { "serve", "--listen" }, "%-%-listen needs a value" },
      { { "serve", "--listen", "[::1]:0", "--listen", "[::1]:0", "x.lua" }, "%-%-listen %[::1%]:0 is given twice" },
      { { "serve", "--drain", "soon", "c.lua" }, "%-%-drain wants seconds, 0 to 86400, not 'soon'" },
      { { "serve", "a.lua", "b.lua" }, "one configuration, not 'a.lua' and 'b.lua'" },
      { { "_gateway", "--", "a.lua" }, "only `moonpool serve` starts this" },
    } do
      local code, text = server.run(case[1])
      assert.equal(2, code)
      assert.matches(case[2], text)
    end
  end)
end)


describe("serve, with a model", function()
  after_each(server.cleanup)
  if not server.weights() then
    pending "the default model is not there: ./dev fetch, or MOONPOOL_MODELS"
    return
  end

  it("loads what min_replicas wants before it is ready, on the CPU, and answers", function()
    local s = server.boot { model = { min_replicas = 1 } }
    assert.matches("\n  models     smol: cpu: [^\n]*, warm, %d+ MiB\n", s:log())
    assert.equal("moonpool: engine cpu", server.title(s:pids()["engine cpu"]))
    local r = s:chat { content = "What is the capital of France?", max_tokens = 12, temperature = 0 }
    assert.equal(200, r.status)
    assert.matches("Paris", r:json().text)
    assert.equal("stop", r:json().finish_reason)
  end)

  it("is ready with its models cold, and loads one for the first request", function()
    local s = server.boot { model = { min_replicas = 0 }, fake = { delay_ms = 1 } }
    assert.matches("\n  models     smol: fake, cold, needs %d+ MiB\n", s:log())
    assert.equal(200, s:request({ path = "/readyz" }).status)
    assert.equal(0, s:model().loads)
    local r = s:chat { content = "Hello", max_tokens = 3 }
    assert.same({ 200, 3 }, { r.status, r:json().usage.completion_tokens })
    s:until_state { loads = 1, state = "warm" }
  end)

  it("says which weights it cannot use, and exits with 2", function()
    local dir = server.folder { model = { min_replicas = 1, source = "broken.gguf" }, fake = true, files = { ["broken.gguf"] = "GGUF, or so it says" } }
    local code, text = server.run { "serve", "--state", dir .. "/s", "--runtime", dir .. "/r", dir .. "/conf/moonpool.lua" }
    local left = io.popen("ls " .. dir .. "/r"):read "*a"
    os.execute("rm -rf " .. dir)
    assert.equal(2, code)
    assert.matches("cannot serve: model 'smol' was to be loaded at start %(min_replicas%) and failed: [^\n]*broken%.gguf", text)
    assert.equal("", left)
  end)

  it("serves on when a model that may be cold has broken weights: its requests say so", function()
    local s = server.boot { models = { bad = { source = "broken.gguf" }, good = { min_replicas = 1 } }, fake = { delay_ms = 1 },
      files = { ["broken.gguf"] = "GGUF, or so it says" }, allow = { "request %x+:" } }
    local r = s:chat { model = "bad", content = "Hello" }
    assert.is_true(r.status >= 400)
    assert.matches("broken%.gguf", r:json().error.message)
    assert.equal(200, s:chat({ model = "good", content = "Hello", max_tokens = 2 }).status)
  end)

  it("says which device is not here", function()
    local code, text = refused { model = { devices = { "cuda" }, min_replicas = 1 } }
    assert.equal(2, code)
    assert.matches('mp%.model "smol": none of its devices %(cuda%) is here; this server has: cpu', text)
  end)
end)
