--- The warm pool from outside: zero → warm → zero, queues and their limits, loads that fail, processes that die, two models in one memory.
--- On the scripted device where timing matters, on the CPU where memory does.
local server = require "spec.support.server"
local http = require "spec.support.http"

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
    assert.matches("\n  models     smol: fake, cold", s:log())
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

  for _, case in ipairs { { on = "the CPU", n = 30, fake = false }, { on = "the scripted device", n = 100, fake = { delay_ms = 1, load_ms = 300 } } } do
    it(("is loaded once by %d requests at once on %s, stays warm, and gives all memory back"):format(case.n, case.on), function()
      local s = boot { model = { scaledown_window = 2, queue = { max = 128, timeout = 60 } }, fake = case.fake }
      local role = case.fake and "engine fake" or "engine cpu"
      s:until_no(role)
      local before = s:pss()
      for round = 1, 2 do
        local answers = expect_all(s:many(case.n, { content = "Hi", max_tokens = 2 }), 200, seconds(60))
        assert.same({ cold = case.n }, starts(answers))
        assert.equal(round, s:count(LOADED))
        local r = s:chat { content = "Hi", max_tokens = 1 }
        assert.same({ 200, "warm" }, { r.status, r.headers["x-moonpool-start"] })
        s:until_line(("draining %-> cold.*"):rep(round))
        s:until_no(role)
        if not os.getenv "MOONPOOL_SANITIZE" then -- those keep what was freed
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
