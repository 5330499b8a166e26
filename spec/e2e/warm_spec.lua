--- The warm pool from outside: zero → warm → zero, queues and their limits, loads that fail, processes that die, two models in one memory.
--- On the scripted device where timing matters, on the CPU where memory does.
local server = require "spec.support.server"
local http = require "spec.support.http"
local tiny = require "spec.support.tiny"

if not server.weights() then
  pending "the default model is not there: ./dev fetch, or MOONPOOL_MODELS"
  return
end

local MIB = 1024 * 1024
local LINGER = { "--engine-linger", "0.3" }
local LOADED = "loading %-> warm"

--- Scripted unless told otherwise; its engine ends 0.3 s after nothing is loaded.
local function boot(o)
  o.args = o.args or LINGER
  if o.fake == nil then
    o.fake = { delay_ms = 1 }
  end
  return server.boot(o)
end

--- A number of seconds that grows with how slow the build is.
local function seconds(n)
  return n * server.slow
end

local function expect_all(many, status, timeout)
  for _, r in ipairs(many:collect(nil, timeout)) do
    assert(r.status == status, ("%d instead of %d: %s"):format(r.status, status, r.body))
  end
  return many.answers
end

local function starts(answers)
  local out = {}
  for _, r in ipairs(answers) do
    local kind = r.headers["x-moonpool-start"]
    out[kind] = (out[kind] or 0) + 1
  end
  return out
end

describe("a model that nobody uses", function()
  after_each(server.cleanup)

  it("costs nothing: no engine process once the linger is over, and the first request brings one", function()
    local s = boot { model = { scaledown_window = 0.2 } }
    assert.matches("\n  models     smol: fake, cold, needs %d+ MiB\n", s:log())
    s:until_no "engine fake"
    assert.equal(200, s:request({ path = "/readyz" }).status)
    local r = s:chat()
    assert.same({ 200, "cold" }, { r.status, r.headers["x-moonpool-start"] })
    s:until_line "model 'smol': draining %-> cold"
    s:until_no "engine fake"
    assert.equal(200, s:chat().status)
    assert.equal(2, s:count(LOADED))
    assert.equal(0, s:count "Z warn ")
  end)

  for _, case in ipairs { { on = "the CPU", fake = false }, { on = "the scripted device", fake = { delay_ms = 1, load_ms = 300 } } } do
    it(("is loaded once by 30 requests at once, and by 100, stays warm, and gives all memory back, on %s"):format(case.on), function()
      local model, dir = { scaledown_window = 2, queue = { max = 128, timeout = 60 } }, nil
      if not case.fake and server.slow > 1 then -- a sanitizer's arithmetic takes minutes for the real one
        dir = server.folder { conf = "" }
        model.source = dir .. "/conf/tiny.gguf"
        tiny.write(model.source)
        server.configure(dir, { model = model })
      end
      local s = boot { model = model, fake = case.fake, dir = dir }
      local role = case.fake and "engine fake" or "engine cpu"
      s:until_no(role)
      local before = s:pss()
      for round, n in ipairs { 30, 100 } do
        local answers = expect_all(s:many(n, { content = "Hi", max_tokens = 1 }), 200, seconds(60))
        assert.same({ cold = n }, starts(answers))
        assert.equal(round, s:count(LOADED))
        local r = s:chat { content = "Hi", max_tokens = 1 }
        assert.same({ 200, "warm" }, { r.status, r.headers["x-moonpool-start"] })
        s:until_line(("draining %-> cold.*"):rep(round))
        s:until_no(role)
        if server.slow == 1 then -- sanitizers keep what was freed
          local grown = s:pss() - before
          assert(grown <= 4 * MIB, ("%.1f MiB more than before the first request"):format(grown / MIB))
        end
      end
      assert.equal(2, s:count(LOADED))
    end)
  end
end)

describe("a load that takes longer than the queue's timeout", function()
  after_each(server.cleanup)

  it("does not use that up", function()
    local soak = os.getenv "MOONPOOL_SOAK"
    local load, timeout = soak and 60 or 4, soak and 30 or 1.5
    local s = boot { model = { queue = { timeout = timeout } }, fake = { delay_ms = 1, load_ms = load * 1000 } }
    local started = http.now()
    local many = s:many(5)
    local c = s:connect { timeout = load + seconds(20) }
    local stream = c:stream { path = "/story", json = { content = "Hello", max_tokens = 2 } }
    local comments, last = 0, http.now()
    for event in stream:events(true) do
      assert(http.now() - last < seconds(5), "silent for more than 5 s")
      last = http.now()
      comments = comments + (event.comment and 1 or 0)
    end
    c:close()
    expect_all(many, 200, load + seconds(20))
    assert.is_true(http.now() - started >= load)
    assert.equal(200, stream.status)
    assert.is_true(comments >= math.floor(load / 5))
    assert.equal(1, s:count(LOADED))
  end)
end)

describe("a queue", function()
  after_each(server.cleanup)

  it("takes exactly as many as it may: 200 at once, 16 places, 64 in line: 80 accepted, 120 refused at once", function()
    local s = boot { model = { min_replicas = 1, max_concurrency = 16, queue = { max = 64, timeout = 60 } }, fake = { delay_ms = 2000 }, drain = 0.1 }
    local many = s:many(200, { content = "Hello", max_tokens = 1000 })
    many:collect(120)
    assert.same({ [429] = 120 }, many:statuses())
    for _, r in ipairs(many.answers) do
      assert.is_true(tonumber(r.headers["retry-after"]) >= 1)
      assert.equal("queue_full", r:json().error.code)
      assert.is_true(r.seconds < seconds(1))
    end
    assert.equal(120, #many:collect(121, 0.5, true))
    s:until_state { in_flight = 16 }
    many:close()
    s:until_state { in_flight = 0 }
    assert.equal(0, s:model().waiting)
  end)

  it("answers 503 and Retry-After to who waited past its timeout, and drops who left", function()
    local s = boot { model = { min_replicas = 1, max_concurrency = 1, queue = { max = 4, timeout = 1 } }, fake = { delay_ms = 300 }, drain = 0.1 }
    local first = s:story { content = "Hello", max_tokens = 1000 }
    s:until_state { in_flight = 1 }
    local leaving = s:many(2, { content = "Hello", max_tokens = 1000 })
    s:until_state { waiting = 2 }
    leaving:close()
    s:until_state { waiting = 0 }
    local r = s:chat()
    assert.equal(503, r.status)
    assert.is_true(tonumber(r.headers["retry-after"]) >= 1)
    assert.same({ "queue_timeout", "model 'smol' had no place for this request within 1 seconds" }, { r:json().error.code, r:json().error.message })
    assert.is_true(r.seconds >= 1 and r.seconds < 1 + seconds(2))
    first:close()
  end)

  it("is each model's own", function()
    local s = boot { models = { a = { max_concurrency = 1, queue = { max = 0 } }, b = { max_concurrency = 2, queue = { max = 1 } } }, fake = { delay_ms = 300 },
      drain = 0.1 }
    local busy = s:many(3, { model = "a", content = "Hello", max_tokens = 1000 })
    busy:collect(2)
    assert.same({ [429] = 2 }, busy:statuses())
    local others = s:many(4, { model = "b", content = "Hello", max_tokens = 1 })
    others:collect()
    assert.same({ [200] = 3, [429] = 1 }, others:statuses())
    busy:close()
  end)
end)

describe("streams whose clients leave", function()
  after_each(server.cleanup)

  it("are in no step that is issued from then on, and give their places to others", function()
    local s = boot { model = { min_replicas = 1, max_concurrency = 11, context = 2048, queue = { max = 0 } }, fake = { delay_ms = 150, trace = 1 }, drain = 0.1 }
    --- How many sequences each step had that was issued since byte `from` of the log.
    local function steps(from)
      local out = {}
      for line in s:log():sub(from):gmatch "fake: (forward [^\n]*)" do
        local _, n = line:gsub("slot=", "")
        out[#out + 1] = n
      end
      return out
    end
    local story = { path = "/story", json = { content = "Hello", max_tokens = 1000 } }
    local stays, leave = http.many(s.url, 1, story), http.many(s.url, 10, story)
    server.until_true("they run together", function()
      local n = steps(1)
      return n[#n] == 11
    end)
    local full = s:many(1)
    full:collect()
    assert.same({ [429] = 1 }, full:statuses())
    leave:close()
    local from = #s:log() + 1
    s:until_state { in_flight = 1 }
    local seen = server.until_true("steps without them", function()
      local n = steps(from)
      return #n >= 5 and n
    end)
    assert(seen[1] == 1 or seen[2] == 1, table.concat(seen, " ")) -- one may have been issued while they left
    for i = 2, #seen do
      assert(seen[i] == 1, table.concat(seen, " "))
    end
    expect_all(s:many(10), 200)
    stays:close()
  end)
end)

describe("a load that fails", function()
  after_each(server.cleanup)

  --- 503 with a reason that matches, and seconds to wait.
  local function expect_failed(r, pattern)
    assert(r.status == 503, ("%d: %s"):format(r.status, r.body))
    local err, after = r:json().error, tonumber(r.headers["retry-after"])
    assert.equal("unavailable", err.code)
    assert.matches("^model 'smol' cannot be loaded: " .. pattern, err.message)
    assert.is_true(after >= 1)
    return after
  end

  --- Asks until the backoff is over and the model was tried again; what came then.
  local function next_try(s, o)
    local failures = s:count "%-> failed"
    return server.until_true("it is not tried again", function()
      local r = s:chat(o)
      if r.status ~= 503 then
        return r
      end
      return s:count "%-> failed" > failures and s:chat(o) -- once more: the first may have been answered just before the failure
    end, seconds(20))
  end

  for name, case in pairs {
    ["a file that is none"] = { write = function(path) server.write_file(path, "GGUF, or so it says") end, why = ".*weights%.gguf" },
    ["a wrong sha256"] = { write = tiny.write, sha256 = ("0"):rep(64), why = ".*sha256" },
  } do
    it(("is said with its reason, tried again later and later, and forgotten once mended: %s"):format(name), function()
      local dir = server.folder { conf = "" }
      local path = dir .. "/conf/weights.gguf"
      case.write(path)
      local good = case.sha256 and server.sha256(path)
      local conf = { model = { source = path, sha256 = case.sha256, scaledown_window = 300 }, fake = false, args = LINGER, dir = dir }
      server.configure(dir, conf)
      local s = server.boot(conf)
      expect_failed(s:chat(), case.why)
      local waits = {}
      for i = 1, 2 do
        waits[i] = expect_failed(next_try(s), case.why)
      end
      assert.is_true(waits[2] > waits[1], ("%d, then %d seconds"):format(waits[1], waits[2]))
      if good then
        conf.model.sha256 = good
        server.configure(dir, conf)
        s:signal(1)
        s:until_line "reload.*\n"
      else
        tiny.write(path)
      end
      local r = next_try(s, { content = "Hi", max_tokens = 2 })
      assert.equal(200, r.status)
      assert.equal("cold", r.headers["x-moonpool-start"])
    end)
  end

  it("needs more memory than its device may hold", function()
    local s = boot { model = {}, device = { memory = "64MiB" } }
    expect_failed(s:chat(), "it needs %d+ MiB, and its device 'fake' may hold 64 MiB in all")
    s:until_no "engine fake"
  end)

  it("ends with its engine: who waits hears so at once, and the next try loads", function()
    local s = boot { model = {}, fake = { delay_ms = 1, load_ms = 1500 }, allow = { "supervisor: engine fake" } }
    local many = s:many(5)
    s:until_state { state = "loading", waiting = 5 }
    server.kill(s:pids()["engine fake"], 9)
    for _, r in ipairs(many:collect()) do
      expect_failed(r, "the engine was killed while it loaded the model")
    end
    assert.equal(200, next_try(s).status)
    assert.equal(1, s:count(LOADED))
  end)

  it("takes longer than its startup_timeout", function()
    local s = boot { model = { startup_timeout = 0.3 }, fake = { delay_ms = 1, load_ms = 20000 } }
    local r = s:chat()
    expect_failed(r, "it was not loaded within its startup_timeout of 0%.3 seconds")
    assert.is_true(r.seconds < seconds(3))
    s:until_no "engine fake" -- the load was given up
  end)
end)

describe("a process that is killed", function()
  after_each(server.cleanup)

  it("engine: what ran on it is lost, what waited is not, and the model is loaded again", function()
    local s = boot { model = { max_concurrency = 1, scaledown_window = 60 }, fake = { delay_ms = 20 }, allow = { "supervisor: engine fake", "request %x+:" } }
    local c, stream = s:story { content = "Hello", max_tokens = 500 }
    s:until_state { in_flight = 1 }
    local many = s:many(10)
    s:until_state { waiting = 10 }
    server.kill(s:pids()["engine fake"], 9)
    local last
    for event in stream:events() do
      last = event
    end
    assert.matches("engine_lost", last.data)
    c:close()
    expect_all(many, 200)
    assert.equal(2, s:count(LOADED))
    assert.equal(1, s:count "warm %-> cold after [%d.]+ s %(engine lost")
  end)

  it("gateway: models stay loaded and are adopted", function()
    local s = boot { model = { scaledown_window = 1 }, allow = { "supervisor: gateway ended" } }
    assert.equal(200, s:chat().status)
    local before = s:pids()
    server.kill(before.gateway, 9)
    s:until_role("gateway", before.gateway)
    s:until_line "back with generation"
    assert.equal(1, s:count "model 'smol': cold %-> warm after [%d.]+ s %(found loaded%)")
    local r = s:chat()
    assert.same({ 200, "warm" }, { r.status, r.headers["x-moonpool-start"] })
    assert.equal(before["engine fake"], s:pids()["engine fake"])
    assert.equal(1, s:count(LOADED))
    s:until_no "engine fake"
  end)
end)

describe("two models with room for one", function()
  after_each(server.cleanup)

  it("take turns: everybody is answered, and not every request is a load", function()
    local probe = boot { model = {} }
    local need = probe:model().need
    assert.is_true(need > MIB)
    probe:stop()
    local s = boot { models = { a = { scaledown_window = 60, queue = { max = 128, timeout = 60 } }, b = { scaledown_window = 60, queue = { max = 128, timeout = 60 } } },
      device = { memory = math.floor(need * 1.5), max_wait = 2, min_residency = 0.5 }, fake = { delay_ms = 1, load_ms = 300 } }
    local started, open = http.now(), {}
    local n = 24
    for i = 1, n do -- A B A B at 8 a second
      server.until_true("time passes", function() return http.now() >= started + (i - 1) / 8 end)
      open[i] = s:many(1, { model = i % 2 == 1 and "a" or "b", content = "Hello", max_tokens = 2 })
    end
    local worst = 0
    for _, many in ipairs(open) do
      worst = math.max(worst, expect_all(many, 200, seconds(20))[1].seconds)
    end
    local loads = s:count(LOADED)
    assert(loads >= 2 and loads <= n / 4, loads .. " loads")
    assert(worst < seconds(2 + 2), worst .. " seconds")
    local loaded = {} -- never both at once
    for name, from, to in s:log():gmatch "model '(%w)': (%w+) %-> (%w+)" do
      loaded[name] = to ~= "cold" or nil
      assert(not (loaded.a and loaded.b), ("%s: %s -> %s while the other is loaded"):format(name, from, to))
    end
  end)
end)
