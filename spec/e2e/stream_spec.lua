--- What a client hears while it waits: headers, usage, comments, refusals with a time to try again; an endpoint's own limits.
--- The scripted device, so that times are known; the weights are the default model's, for their tokenizer.
local server = require "spec.support.server"
local http = require "spec.support.http"
local json = require "spec.support.json"
local cli = require "spec.support.cli"
local prometheus = require "spec.support.prometheus"
local ffi = require "ffi"

local weights = server.weights()
local python = os.getenv "MOONPOOL_CLIENT_PYTHON"
local slow = server.slow

local function boot(o)
  o.model = o.model or {}
  o.fake = o.fake or {}
  return server.boot(o)
end

--- Every block of an event stream with the second at which it came: { data | comment, at }.
local function listen(r)
  local out, began = {}, http.now()
  for event in r:events(true) do
    event.at = http.now() - began
    out[#out + 1] = event
  end
  return out
end

local function later(s, o)
  local c = s:connect()
  c:send(("POST /%s HTTP/1.1\r\nhost: x\r\n%scontent-length: %d\r\n\r\n%s"):format(o.path or "chat",
    o.headers or "", #o.body, o.body))
  return c
end

local ASK = json.encode { content = "Hello", max_tokens = 8 }

describe("what an answer tells of its wait", function()
  if not weights then
    pending "the default model's weights are not there (./dev fetch)"
    return
  end
  after_each(server.cleanup)

  it("stands in its headers and its usage, first cold, then warm", function()
    local s = boot { fake = { load_ms = 300, delay_ms = 2 } }
    local cold, warm = s:chat(), s:chat()
    assert.same({ 200, "cold" }, { cold.status, cold.headers["x-moonpool-start"] })
    assert.same({ 200, "warm" }, { warm.status, warm.headers["x-moonpool-start"] })
    local a, b = cold:json().usage, warm:json().usage
    assert.is_true(a.load_seconds >= 0.3, a.load_seconds)
    assert.is_true(a.ttft_seconds >= a.load_seconds + a.prefill_seconds)
    assert.is_true(a.queue_seconds < 0.2 * slow)
    assert.equal(0, b.load_seconds)
    assert.is_true(b.prefill_seconds > 0 and b.decode_seconds > 0 and b.device_seconds > 0)
    assert.is_true(b.ttft_seconds < 0.2 * slow)
    for _, r in ipairs { cold, warm } do
      assert.matches("^%d+%.%d%d%d$", r.headers["x-moonpool-queue"])
      assert.near(r:json().usage.queue_seconds, tonumber(r.headers["x-moonpool-queue"]), 0.002)
      for name, v in pairs(r:json().usage) do
        assert.is_true(math.abs(v * 1e6 - math.floor(v * 1e6 + 0.5)) < 1e-3, name .. " is not in whole microseconds")
      end
    end
    assert.is_nil(s:request({ path = "/models" }).headers["x-moonpool-start"])
  end)

  it("is on a stream's head too, and in its last event", function()
    local s = boot { model = { min_replicas = 1 }, fake = { delay_ms = 2 } }
    local c, r = s:story()
    assert.same({ 200, "warm" }, { r.status, r.headers["x-moonpool-start"] })
    assert.matches("^0%.%d%d%d$", r.headers["x-moonpool-queue"])
    local events = listen(r)
    local last = json.decode(events[#events].data)
    assert.is_true(last.done)
    for _, name in ipairs { "queue_seconds", "load_seconds", "prefill_seconds", "decode_seconds", "ttft_seconds", "device_seconds" } do
      assert.equal("number", type(last.usage[name]), name)
    end
    c:close()
  end)

  it("counts the queue apart from the work", function()
    local s = boot { model = { min_replicas = 1, max_concurrency = 1 }, fake = { delay_ms = 30 } }
    local first = later(s, { body = ASK })
    s:until_state { in_flight = 1 }
    local second = s:chat()
    assert.equal(200, first:response().status)
    local u = second:json().usage
    assert.is_true(u.queue_seconds > 0.02, u.queue_seconds)
    assert.is_true(tonumber(second.headers["x-moonpool-queue"]) > 0.02)
    assert.is_true(u.ttft_seconds >= u.queue_seconds + u.prefill_seconds - 1e-5)
    assert.equal(0, u.load_seconds)
    first:close()
  end)
end)

describe("a refusal", function()
  if not weights then
    pending "the default model's weights are not there (./dev fetch)"
    return
  end
  after_each(server.cleanup)

  local OPENAI = [[
local mp = require "moonpool"
mp.server { listen = { "127.0.0.1:0" }, workers = 1, use = { "openai" } }
local smol = mp.model "smol" { source = %q, devices = { "fake" }, min_replicas = 1, max_concurrency = 1, queue = { max = 0 } }
mp.endpoint { route = "GET /models", handle = function() return { smol = smol:status() } end }
mp.endpoint { route = "POST /chat", handle = function(req) return smol:chat { messages = { { role = "user", content = req:body() } } } end }
]]

  it("for a full queue is 429 and says when to come back, in either shape", function()
    local s = boot { conf = OPENAI:format(weights), fake = { delay_ms = 50 } }
    local running = later(s, { body = "a story without end" })
    s:until_state { in_flight = 1 }
    local plain = s:request { path = "/chat", body = "x" }
    local openai = s:request { path = "/v1/chat/completions",
      json = { model = "smol", messages = { { role = "user", content = "x" } }, stream = true } }
    for _, r in ipairs { plain, openai } do
      assert.equal(429, r.status)
      assert.equal("queue_full", r:json().error.code)
      assert.matches("^[1-9]%d*$", r.headers["retry-after"])
      assert.same({ "warm", "0.000" }, { r.headers["x-moonpool-start"], r.headers["x-moonpool-queue"] })
    end
    assert.equal("rate_limit_error", openai:json().error.type)
    running:close()
    s:until_state { in_flight = 0 }
  end)

  it("for a deadline that cannot be met is 503 at once", function()
    local s = boot { model = { max_concurrency = 1, min_replicas = 1, sampling = { max_tokens = 40 } }, fake = { delay_ms = 20 } }
    assert.equal(200, s:chat().status) -- now it knows how long a request takes
    local running = later(s, { body = json.encode { content = "Hello", max_tokens = 200 } })
    s:until_state { in_flight = 1 }
    local before = http.now()
    local r = s:request { path = "/chat", json = { content = "Hello" }, headers = { ["x-deadline"] = "0.01" } }
    assert.is_true(http.now() - before < 0.5 * slow)
    assert.same({ 503, "deadline" }, { r.status, r:json().error.code })
    assert.matches("^[1-9]%d*$", r.headers["retry-after"])
    running:close()
    s:until_state { in_flight = 0 }
    assert.equal(200, s:request({ path = "/chat", json = { content = "Hello", max_tokens = 2 }, headers = { ["x-deadline"] = "20" } }).status)
  end)

  it("for an X-Deadline that is none is 400 and names it", function()
    local s = boot { model = { min_replicas = 0 } }
    for _, value in ipairs { "0", "0.0", "-1", "soon", "1s", "1e3", "", ".", "1.2.3", "0x10", "nan", "inf", " 1 2" } do
      local r = s:request { path = "/chat", json = { content = "x" }, headers = { ["x-deadline"] = value } }
      assert.same({ 400, "invalid_argument" }, { r.status, r:json().error.code }, value)
      assert.matches("X%-Deadline", r:json().error.message)
    end
    for _, value in ipairs { "1", "0.5", "1.", ".5", "00001", "99999999999999999999" } do
      assert.equal(200, s:request({ path = "/models", headers = { ["x-deadline"] = value } }).status, value)
    end
  end)
end)

describe("a stream on a model that is not ready", function()
  if not weights then
    pending "the default model's weights are not there (./dev fetch)"
    return
  end
  after_each(server.cleanup)
  local HASTY = { MOONPOOL_DEBUG_SILENCE_MS = "150" }

  it("hears how the load goes, and then the text", function()
    local s = boot { fake = { load_ms = 1500 }, env = HASTY }
    local began = http.now()
    local c, r = s:story()
    assert.is_true(http.now() - began < 1.2 * slow, "the head waits for no load")
    assert.same({ 200, "cold" }, { r.status, r.headers["x-moonpool-start"] })
    assert.is_nil(r.headers["x-moonpool-queue"]) -- not known yet
    local events, percents = listen(r), {}
    for i, event in ipairs(events) do
      if event.comment then
        assert.is_nil(percents.over, "a comment behind the first token")
        local percent = event.comment:match "^loading smol, (%d+) %%"
        assert.is_truthy(percent or event.comment:match "^loading smol" or event.comment:match "^queued, 0 ahead" or
          event.comment == "started", event.comment)
        percents[#percents + 1] = tonumber(percent)
      else
        percents.over = percents.over or i
      end
    end
    assert.is_true(#percents >= 3, #percents .. " comments with progress")
    for i = 2, #percents do
      assert.is_true(percents[i] >= percents[i - 1] and percents[i] <= 100)
    end
    local last = json.decode(events[#events].data)
    assert.is_true(last.done and last.usage.load_seconds >= 1.5, json.encode(last))
    c:close()
  end)

  it("hears who is before it in the queue", function()
    local s = boot { model = { min_replicas = 1, max_concurrency = 1 }, fake = { delay_ms = 50 }, env = HASTY }
    local running = later(s, { body = json.encode { content = "Hello", max_tokens = 1000 } })
    s:until_state { in_flight = 1 }
    local waiting = later(s, { body = ASK })
    s:until_state { waiting = 1 }
    local c, r = s:story()
    assert.equal(200, r.status)
    local next_event = r:events(true)
    assert.matches("^queued, 1 ahead", next_event().comment)
    running:reset()
    local event
    repeat
      event = next_event()
    until event.data
    assert.matches('^{"text":', event.data)
    for other in next_event do
      event = other
    end
    assert.is_true(json.decode(event.data).usage.queue_seconds > 0.1)
    assert.equal(200, waiting:response().status)
    waiting:close()
    c:close()
  end)

  it("is a proper error while it has heard nothing", function()
    local s = boot { fake = { load_ms = 20, fail_load = 1 }, allow = { "load" } }
    local c, r = s:story()
    assert.equal(503, r.status)
    assert.same({ "unavailable", "cold" }, { json.decode(r:rest()).error.code, r.headers["x-moonpool-start"] })
    assert.matches("^[1-9]%d*$", r.headers["retry-after"])
    c:close()
  end)

  it("ends with an error event once it has, and none names a path of ours", function()
    local s = boot { fake = { load_ms = 1000, fail_load = 1 }, env = HASTY, allow = { "load" } }
    local c, r = s:story()
    assert.equal(200, r.status)
    local events = listen(r)
    local last = json.decode(events[#events].data)
    assert.same({ "unavailable", 503 }, { last.error.code, last.error.status })
    assert.is_true(last.error.retry_after >= 1)
    assert.matches("model 'smol' cannot be loaded", last.error.message)
    assert.is_nil(last.error.message:find("/", 1, true), last.error.message)
    c:close()
  end)

  it("is not a file's secret: an unreadable one is named without its folder", function()
    local s = boot { model = { source = "broken.gguf" }, files = { ["broken.gguf"] = "GGUF and then nothing of use" }, allow = { "broken" } }
    local r = s:chat()
    assert.is_true(r.status >= 400)
    assert.is_nil(r.body:find(s.dir, 1, true), r.body)
    assert.matches("smol", r:json().error.message)
    assert.matches("broken%.gguf", r:json().error.message)
    assert.is_nil(s:model().reason:find(s.dir, 1, true))
    assert.is_truthy(s:log():find(s.dir .. "/conf/broken.gguf", 1, true), "the log has the path")
  end)

  it("hears something at least every 5 seconds without being told to hurry", function()
    local s = boot { fake = { load_ms = 11000 } }
    local c = later(s, { path = "story", body = ASK })
    local last, began = http.now(), http.now()
    local r = c:head "POST"
    local gaps = http.now() - last
    last = http.now()
    assert.equal(200, r.status)
    for event in r:events(true) do
      gaps = math.max(gaps, http.now() - last)
      last = http.now()
      if event.data then
        break
      end
    end
    assert.is_true(http.now() - began >= 11)
    assert.is_true(gaps <= 5 * (slow > 1 and 1.5 or 1), gaps .. " seconds of silence")
    c:close()
  end)

  it("ends with an event when its deadline passes, and one in the server's last moments", function()
    local s = boot { fake = { load_ms = 20000 }, env = HASTY, drain = 0.2 }
    local c = later(s, { path = "story", body = ASK, headers = "x-deadline: 0.7\r\n" })
    local r = c:head "POST"
    assert.equal(200, r.status)
    local events = listen(r)
    assert.same({ "deadline", 503 }, { json.decode(events[#events].data).error.code, json.decode(events[#events].data).error.status })
    c:close()
    c = later(s, { path = "story", body = ASK })
    local next_event = c:head("POST"):events(true)
    assert.is_truthy(next_event().comment)
    s:signal(15)
    local last
    for event in next_event do
      last = event
    end
    assert.same({ "unavailable", "the server is stopping" },
      { json.decode(last.data).error.code, json.decode(last.data).error.message })
    c:close()
  end)

  it("may be asked for by older clients and by HEAD", function()
    local s = boot { fake = { load_ms = 700 }, env = HASTY, endpoints = [[
      mp.endpoint { route = "GET /tale", handle = function()
        return models.smol:chat_stream { messages = { { role = "user", content = "x" } }, max_tokens = 2 }
      end }]] }
    local c = s:connect()
    c:send "HEAD /tale HTTP/1.1\r\nhost: x\r\n\r\n"
    assert.equal(200, c:head("HEAD").status)
    c:close()
    c = s:connect()
    c:send "GET /tale HTTP/1.0\r\n\r\n"
    local r = c:head "GET"
    assert.equal(200, r.status)
    local events = listen(r)
    assert.is_true(json.decode(events[#events].data).done)
    c:close()
  end)

  it("leaves nothing behind when its client leaves while it loads", function()
    local s = boot { fake = { load_ms = 800 }, env = HASTY }
    local c, r = s:story()
    assert.is_truthy(r:events(true)().comment)
    c:reset()
    s:until_state { waiting = 0, in_flight = 0 }
  end)
end)

describe("an endpoint's own limits", function()
  after_each(server.cleanup)

  local CONF = [[
local mp = require "moonpool"
mp.server { listen = { "127.0.0.1:0" }, workers = 2 }
mp.endpoint { route = "POST /few", max_concurrency = 3, handle = function(req) mp.log.info "has a place" mp.sleep(30) return {} end }
mp.endpoint { route = "POST /brief", timeout = 0.3, handle = function(req) mp.sleep(30) return {} end }
mp.endpoint { route = "POST /events", timeout = 0.3, handle = function(req, res)
  local e = res:events()
  for i = 1, 1000 do if not e:send { n = i } then return end mp.sleep(0.05) end
end }
mp.endpoint { route = "GET /fine", timeout = 30, handle = function() return { ok = true } end }
]]

  it("refuse what is over max_concurrency before its body is read", function()
    local s = server.boot { conf = CONF }
    local open = {}
    for i = 1, 3 do
      open[i] = later(s, { path = "few", body = "{}" })
    end
    server.until_true("three that have a place", function() return select(2, s:log():gsub("has a place", "")) == 3 end)
    --- The refusal of a request whose body does not come; nil when it got a place (and gave it back).
    local function refused()
      local c = s:connect()
      c:send "POST /few HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
      ffi.C.poll(ffi.new("struct spec_pollfd", c.fd, 1), 1, 200)
      c.buffer = c:drain()
      local r = c.buffer ~= "" and c:response "POST" or nil
      c:reset()
      return r
    end
    local r = refused()
    assert.same({ 429, "queue_full", "1" }, { r.status, r:json().error.code, r.headers["retry-after"] })
    assert.equal("POST /few serves 3 requests at once and has no room for another", r:json().error.message)
    open[1]:reset()
    server.until_true("a place that was given back", function() return not refused() end)
    for i = 2, 3 do
      open[i]:reset()
    end
  end)

  it("give a place back before its answer is out", function()
    local s = server.boot { conf = [[
local mp = require "moonpool"
mp.server { listen = { "127.0.0.1:0" }, workers = 4 }
mp.endpoint { route = "GET /one", max_concurrency = 1, handle = function() return {} end }
]] }
    for _ = 1, 300 do -- each on a connection of its own, so on any worker
      assert.equal(200, s:request({ path = "/one" }).status)
    end
  end)

  it("count over generations: a reload gives no places, and may change how many there are", function()
    local function conf(n)
      return ([[
local mp = require "moonpool"
mp.server { listen = { "127.0.0.1:0" }, workers = 1 }
mp.endpoint { route = "POST /few", max_concurrency = %d, handle = function() mp.log.info "has a place" mp.sleep(30) return {} end }
]]):format(n)
    end
    local s = server.boot { conf = conf(2) }
    local open = { later(s, { path = "few", body = "{}" }), later(s, { path = "few", body = "{}" }) }
    local function places(n)
      server.until_true("places: " .. n, function() return select(2, s:log():gsub("has a place", "")) == n end)
    end
    places(2)
    for i, n in ipairs { 2, 3 } do
      server.write_file(s.conf_path, conf(n) .. "-- " .. i)
      local r = cli.run(s, "reload")
      assert.equal(0, r.code, r.err)
      if n == 3 then
        open[3] = later(s, { path = "few", body = "{}" })
        places(3)
      end
      assert.equal(429, s:request({ path = "/few", body = "{}" }).status)
    end
    for _, c in ipairs(open) do
      c:reset()
    end
  end)

  it("end what takes longer than timeout: 504, or an error event", function()
    local s = server.boot { conf = CONF }
    local r = s:request { path = "/brief", body = "{}" }
    assert.same({ 504, "timeout" }, { r.status, r:json().error.code })
    assert.equal("POST /brief took longer than its timeout of 0.3 s", r:json().error.message)
    assert.is_true(r.seconds >= 0.29 and r.seconds < 3 * slow)
    local c = s:connect()
    local stream = c:stream { path = "/events", body = "{}" }
    local events = listen(stream)
    assert.equal("timeout", json.decode(events[#events].data).error.code)
    assert.is_true(#events >= 3 and events[#events].at < 3 * slow)
    c:close()
    c = s:connect() -- a body that does not come
    c:send "POST /brief HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n123"
    assert.equal(504, c:head("POST").status)
    c:close()
    assert.equal(200, s:request({ path = "/fine" }).status)
  end)

  it("cancel what the request had asked of a model", function()
    if not weights then
      return pending "the default model's weights are not there (./dev fetch)"
    end
    local s = boot { model = { min_replicas = 1 }, fake = { delay_ms = 20 }, endpoints = [[
      mp.endpoint { route = "POST /short", timeout = 0.5, handle = function(req)
        return models.smol:chat_stream { messages = { { role = "user", content = "x" } } }
      end }]] }
    local c = s:connect()
    local r = c:stream { path = "/short", body = "{}" }
    assert.equal(200, r.status)
    local events = listen(r)
    assert.equal("timeout", json.decode(events[#events].data).error.code)
    s:until_state { in_flight = 0 }
    c:close()
  end)
end)

describe("moonpool_requests_total", function()
  if not weights then
    pending "the default model's weights are not there (./dev fetch)"
    return
  end
  after_each(server.cleanup)

  it("counts each answer once: model, endpoint, start, status", function()
    local s = server.boot { fake = { load_ms = 50, fail_load = 0 }, conf = ([[
local mp = require "moonpool"
mp.server { listen = { "127.0.0.1:0" }, workers = 2, metrics = true }
local smol = mp.model "smol" { source = %q, devices = { "fake" } }
local other = mp.model "other" { source = %q, devices = { "fake" }, max_replicas = 0 }
local ask = { messages = { { role = "user", content = "Hi" } }, max_tokens = 2 }
mp.endpoint { route = "POST /chat", handle = function() return smol:chat(ask) end }
mp.endpoint { route = "POST /story", handle = function() return smol:chat_stream(ask) end }
mp.endpoint { route = "POST /fallback", handle = function() return other:chat(ask) or smol:chat(ask) end }
mp.endpoint { route = "POST /other", handle = function() return other:chat(ask) end }
mp.endpoint { route = "GET /fine/{n}", max_concurrency = 1, handle = function(req)
  if req.params.n == "wait" then mp.log.info "has a place" mp.sleep(30) end
  return {}
end }
]]):format(weights, weights) }
    s:request { path = "/chat", body = "{}" }
    for _ = 1, 3 do
      s:request { path = "/chat", body = "{}" }
    end
    s:request { path = "/story", body = "{}" }
    s:request { path = "/fallback", body = "{}" }
    s:request { path = "/other", body = "{}" }
    for i = 1, 5 do
      s:request { path = "/fine/" .. i }
    end
    s:request { path = "/fine/7", headers = { ["x-deadline"] = "never" } }
    local waiting = s:connect()
    waiting:send "GET /fine/wait HTTP/1.1\r\nhost: x\r\n\r\n"
    s:until_line "has a place"
    s:request { path = "/fine/6" }
    waiting:reset()
    s:request { path = "/nowhere" }
    local seen
    server.until_true(function() return "counted: " .. json.encode(seen) end, function()
      seen = {}
      for _, one in ipairs(prometheus.read(s:request({ path = "/metrics" }).body).moonpool_requests_total.series) do
        local l = one.labels
        seen[("%s %s %s %s"):format(l.model, l.endpoint, l.start, l.status)] = one.value
      end
      return seen[" GET /fine/{n} none 499"] -- the last to be over: its client left
    end)
    seen["  none 200"] = nil -- /metrics itself
    assert.same({
      ["smol POST /chat cold 200"] = 1, ["smol POST /chat warm 200"] = 3, ["smol POST /story warm 200"] = 1,
      ["smol POST /fallback cold 200"] = 1, -- the one that it was refused by is not warm
      ["other POST /other cold 503"] = 1,
      [" GET /fine/{n} none 200"] = 5, [" GET /fine/{n} none 429"] = 1, [" GET /fine/{n} none 400"] = 1, [" GET /fine/{n} none 499"] = 1,
      ["  none 404"] = 1,
    }, seen)
  end)
end)

describe("moonpool_queue_refused_total", function()
  if not weights then
    pending "the default model's weights are not there (./dev fetch)"
    return
  end
  after_each(server.cleanup)

  it("counts who got no place, and why", function()
    local s = server.boot { fake = { delay_ms = 30 }, conf = ([[
local mp = require "moonpool"
mp.server { listen = { "127.0.0.1:0" }, workers = 2, metrics = true }
local smol = mp.model "smol" { source = %q, devices = { "fake" }, min_replicas = 1, max_concurrency = 1, queue = { max = 2, timeout = 0.4 } }
mp.endpoint { route = "GET /models", handle = function() return { smol = smol:status() } end }
mp.endpoint { route = "POST /chat", handle = function() return smol:chat { messages = { { role = "user", content = "Hi" } } } end }
mp.endpoint { route = "POST /story", handle = function() return smol:chat_stream { messages = { { role = "user", content = "Hi" } } } end }
]]):format(weights) }
    local running = later(s, { body = "{}" })
    s:until_state { in_flight = 1 }
    local gone = { later(s, { body = "{}" }), later(s, { path = "story", body = "{}" }) }
    s:until_state { waiting = 2 }
    assert.equal(429, s:request({ path = "/chat", body = "{}" }).status)
    gone[1]:reset()
    gone[2]:reset()
    s:until_state { waiting = 0 }
    local late = s:request { path = "/chat", body = "{}" }
    assert.same({ 503, "queue_timeout" }, { late.status, late:json().error.code })
    assert.is_true(tonumber(late.headers["x-moonpool-queue"]) >= 0.4)
    assert.is_true(tonumber(late.headers["retry-after"]) >= 1)
    assert.equal("deadline", s:request({ path = "/chat", body = "{}", headers = { ["x-deadline"] = "0.000001" } }):json().error.code)
    running:reset()
    s:until_state { in_flight = 0 }
    local counted = prometheus.read(s:request({ path = "/metrics" }).body)
    for reason, n in pairs { full = 1, timeout = 1, deadline = 1, gone = 2 } do
      assert.equal(n, prometheus.value(counted, "moonpool_queue_refused_total", { model = "smol", reason = reason }), reason)
    end
  end)
end)

describe("the official openai client", function()
  after_each(server.cleanup)

  local function run(s, what)
    local pipe = io.popen(("env -u LD_PRELOAD '%s' spec/e2e/openai_wait.py '%s' %s 2>&1"):format(python, s.url, what))
    local text = pipe:read "*a"
    pipe:close()
    local ok, out = pcall(json.decode, text)
    assert.is_true(ok, text)
    return out
  end
  local CONF = [[
local mp = require "moonpool"
mp.server { listen = { "127.0.0.1:0" }, workers = 1, use = { "openai" } }
mp.model "smol" { source = %q, devices = { "fake" }, max_concurrency = 1, queue = { max = 0 } }
]]

  it("lives through a cold start of 12 seconds", function()
    if not python then
      return pending "MOONPOOL_CLIENT_PYTHON names no python with the openai client (./dev test does)"
    elseif not weights then
      return pending "the default model's weights are not there (./dev fetch)"
    end
    local s = server.boot { conf = CONF:format(weights), fake = { load_ms = 12000 } }
    local out = run(s, "stream")
    assert.same({ "assistant" }, out.roles)
    assert.same({ "length" }, out.finish)
    assert.is_true(#out.text > 0 and out.seconds >= 12)
    assert.is_true(out.usage.load_seconds >= 12)
    assert.equal(6, out.usage.completion_tokens)
    assert.equal("cold", out.start)
  end)

  it("raises a proper error for a load that fails after the head", function()
    if not python then
      return pending "MOONPOOL_CLIENT_PYTHON names no python with the openai client (./dev test does)"
    elseif not weights then
      return pending "the default model's weights are not there (./dev fetch)"
    end
    local s = server.boot { conf = CONF:format(weights), fake = { load_ms = 700, fail_load = 1 }, env = { MOONPOOL_DEBUG_SILENCE_MS = "150" },
      allow = { "load" } }
    local out = run(s, "stream")
    assert.same({ "APIError", "unavailable", "server_error" }, { out.class, out.code, out.type })
    assert.matches("model 'smol' cannot be loaded", out.message)
  end)
end)
