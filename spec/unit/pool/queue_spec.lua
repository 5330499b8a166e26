--- core/pool/queue.h as calls see it: places, the line before them, its bounds and its clocks. In virtual time.
local pool = require "spec.support.pool"

describe("a model's places", function()
  local house

  local function open(o, settings, device)
    device = device or {}
    device.models = { m = o }
    o.settings = settings
    house = pool.house(device)
    return house
  end
  after_each(function()
    if house then
      house:close()
      house = nil
    end
  end)

  --- A model that is warm.
  local function warm(settings, o)
    open(o or {}, settings)
    pool.C.mp_keeper_load(house.keeper, house.models.m.ptr, house.err)
    house.dirty = true
    house:run(5)
    assert.equal("warm", house:state "m")
    house.moves = {}
    return house
  end

  local function order()
    local names = {}
    for i, call in ipairs(house.started) do
      names[i] = call.name
    end
    return table.concat(names, " ")
  end

  it("go by priority, then first come, first served; jobs come last", function()
    warm { max_concurrency = 1 }
    house:call("m", { name = "first", service = 1 })
    house:run(0.1)
    for _, o in ipairs { { "job", background = true, priority = 1000 }, { "low", priority = -5 }, { "a" }, { "b" }, { "high", priority = 7 }, { "c" },
      { "job2", background = true } } do
      o.name = o[1]
      house:call("m", o)
    end
    house:run(5)
    assert.equal("first high a b c low job job2", order())
  end)

  it("are taken by who can start: one that is still prepared, or held, is passed", function()
    warm { max_concurrency = 1 }
    house:call("m", { name = "slow", prepare = 0.5 })
    local held = house:call("m", { name = "held", hold = true })
    house:call("m", { name = "quick" })
    house:run(2)
    assert.equal("quick slow", order())
    pool.C.mp_call_start(held.ptr)
    house:run(1)
    assert.equal("quick slow held", order())
  end)

  it("are never more than max_concurrency; a higher limit counts at once, a lower one as places are given back", function()
    warm { max_concurrency = 2 }
    local most, running = 0, 0
    house.check_places = function(m)
      running = m.running
      most = math.max(most, running)
    end
    for _ = 1, 6 do
      house:call("m", { service = 1 })
    end
    house:run(0.5)
    assert.equal(2, running)
    house:ask("m", { max_concurrency = 4 })
    house:run(0.1)
    assert.equal(4, running)
    house:ask("m", { max_concurrency = 1 })
    house:run(0.6) -- two of the four have ended
    assert.equal(2, house.models.m.running)
    house:run(0.5)
    assert.equal(1, house.models.m.running)
    house:run(5)
    assert.equal(4, most)
    assert.equal(6, #house.started)
  end)

  it("reach the calls of other ports, in order", function()
    open({}, { max_concurrency = 1 }, { ports = 3 })
    house:call("m", { port = 1, service = 1 })
    house:run(2)
    local calls = {}
    for i = 1, 6 do
      calls[i] = house:call("m", { port = i % 3 + 1, service = 1, name = i })
    end
    house:run(10)
    for i, c in ipairs(calls) do
      assert.equal("done", c.state)
      assert.near(i - 1, c.started - c.came, 1e-6)
    end
  end)

  it("of a burst of 200, on 16 places and 64 in the line: 80 are accepted, 120 refused with a time to come back", function()
    open({ load = 1 }, { max_concurrency = 16, queue_max = 64 })
    for round = 1, 2 do -- cold, then warm
      local accepted, refused = 0, 0
      for _ = 1, 200 do
        local call, code, message, retry = house:call("m", { service = "never" })
        if call then
          accepted = accepted + 1
        else
          refused = refused + 1
          assert.equal("queue_full", code)
          assert.matches("^the queue of model 'm' is full: %d+ requests wait, %d+ run$", message)
          assert.is_true(retry >= 1)
        end
      end
      assert.same({ 80, 120 }, { accepted, refused })
      house:run(round == 1 and 3 or 1)
      assert.equal(16, house.models.m.running)
      for _, call in pairs(house.by_id) do
        house:cancel(call)
      end
      house:run(0)
    end
    assert.equal(1, house.models.m.loads)
  end)

  it("are given back by those who end, fail or leave", function()
    warm { max_concurrency = 2, queue_max = 8 }
    local calls = {}
    for i = 1, 10 do
      calls[i] = house:call("m", { service = i % 2 == 0 and 0.5 or "never" })
    end
    house:run(0.1)
    house:cancel(calls[1])
    house:cancel(calls[5]) -- in the line
    house:run(0.1)
    assert.same({ "running", "running", "waiting" }, { calls[2].state, calls[3].state, calls[4].state })
    house:die()
    house:run(0)
    assert.same({ "failed", "failed" }, { calls[2].state, calls[3].state })
    house:run(3)
    local s = house:status "m"
    assert.equal(2, s.in_flight)
  end)

  describe("and the time in line", function()
    it("ends with queue.timeout, and says when to come back", function()
      warm { max_concurrency = 1, queue_timeout = 3 }
      house:call("m", { service = "never" })
      local call = house:call "m"
      house:run(2.9)
      assert.equal("waiting", call.state)
      house:run(0.2)
      assert.same({ "failed", "queue_timeout", "model 'm' had no place for this request within 3 seconds" }, { call.state, call.code, call.error })
      assert.near(3, call.ended - call.came, 1e-6)
      assert.is_true(call.retry >= 1)
    end)

    it("has no end when queue.timeout is 0", function()
      warm { max_concurrency = 1, queue_timeout = 0 }
      house:call("m", { service = "never" })
      local call = house:call "m"
      house:run(100000)
      assert.equal("waiting", call.state)
    end)

    it("does not run while the model loads: 30 s with a load of 60 s, all are served", function()
      open({ load = 60 }, { queue_timeout = 30, max_concurrency = 16, queue_max = 64 })
      local calls = {}
      for i = 1, 30 do
        calls[i] = house:call("m", { service = 1 })
      end
      local seen = {}
      for _ = 1, 12 do
        house:run(5)
        local p = house:progress(calls[1])
        seen[#seen + 1] = p.phase
      end
      house:run(10)
      for _, call in ipairs(calls) do
        assert.equal("done", call.state)
        assert.near(60, call.load, 1e-3)
        assert.near(call.started - call.came - 60, call.queue, 1e-3)
      end
      assert.equal("loading", seen[11])
    end)

    it("runs again after the load", function()
      open({ load = 60 }, { queue_timeout = 3, max_concurrency = 1 })
      local a, b = house:call("m", { service = 10 }), house:call "m"
      house:run(62.9)
      assert.same({ "running", "waiting" }, { a.state, b.state })
      house:run(0.2)
      assert.same({ "running", "queue_timeout" }, { a.state, b.code })
      assert.near(63, b.ended - b.came, 1e-6)
    end)

    it("ends at the request's deadline, while the model loads too", function()
      open({ load = 60 }, {})
      local call = house:call("m", { deadline = 5 }) -- how long a load takes is not known yet
      house:run(4.9)
      assert.equal("waiting", call.state)
      house:run(0.2)
      assert.same({ "deadline", "model 'm' had no place for this request before its deadline" }, { call.code, call.error })
      assert.is_true(call.retry >= 1)
    end)

    it("refuses at once who would start too late, in a model that loads, in a line, and when the deadline has passed", function()
      open({ load = 10 }, { max_concurrency = 2, scaledown_window = 0 })
      house:call("m", { service = 2 })
      house:run(20)
      assert.equal("cold", house:state "m")
      local call, code, message, retry = house:call("m", { deadline = 4 })
      assert.same({ nil, "deadline", 6 }, { call, code, retry })
      assert.equal("model 'm' is expected to start this request in 10.0 seconds, its deadline is in 4.0", message)
      house:run(6) -- it was told to come back then; the model loads meanwhile, for who was refused wants it
      call = house:call("m", { deadline = 4.1, service = 2 })
      assert.is_not_nil(call)
      house:run(5)
      assert.equal("running", call.state)
      for _ = 1, 5 do
        house:call("m", { service = 2 })
      end
      call, code, message, retry = house:call("m", { deadline = 2 })
      assert.same({ nil, "deadline", 3 }, { call, code, retry }, message) -- 5 before it on one free place of two, 2 s each: 5 s
      call, code, message = house:call("m", { deadline = -1 })
      assert.same({ nil, "deadline", "model 'm': the request's deadline has passed" }, { call, code, message })
      assert.is_not_nil(house:call("m", { deadline = 7 }))
    end)

    it("is told honestly: who comes back after Retry-After finds room", function()
      warm { max_concurrency = 4, queue_max = 20 }
      for _ = 1, 8 do -- how long they take is learned
        house:call("m", { service = 2 })
      end
      house:run(10)
      for _ = 1, 24 do
        assert.is_not_nil(house:call("m", { service = 2 }))
      end
      local _, _, _, retry = house:call("m", { service = 2 })
      assert.is_true(retry >= 5 and retry <= 12, retry)
      house:run(retry)
      assert.is_not_nil(house:call("m", { service = 2 }))
      house:run(20)
    end)
  end)

  it("tell how it stands with a call", function()
    open({ load = 10 }, { max_concurrency = 2 })
    local first = house:call("m", { service = 4 })
    house:run(3)
    local p = house:progress(first)
    assert.same({ "loading", "cold", 0 }, { p.phase, p.start, p.ahead })
    assert.near(3, p.waited, 1e-6)
    house:say(house.models.m, "loading", nil, { done = 30 })
    assert.near(7, house:progress(first).expected, 1e-3) -- 30 of 100 took 3 s
    assert.same({ 30, 100 }, { house:progress(first).done, house:progress(first).total })
    house:run(12)
    house:call("m", { service = 4 })
    house:call("m", { service = 4 })
    house:run(0)
    local third, high = house:call("m", { service = 4 }), house:call("m", { priority = 1, service = 4 })
    house:run(0)
    p = house:progress(third)
    assert.same({ "queued", "warm", 1 }, { p.phase, p.start, p.ahead })
    assert.near(4, p.expected, 1e-3) -- two turns at two places of 4 s
    assert.equal(0, house:progress(high).ahead)
    house:run(20)
    assert.same({ "done", 4 }, { third.state, math.floor(third.started - third.came + 0.5) })
  end)

  it("count what calls waited, loaded, and took to their first token", function()
    open({ load = 2 }, { max_concurrency = 1 })
    local a = house:call("m", { service = 3 })
    local b = house:call("m", { service = 1 })
    house:run(10)
    assert.near(0, a.queue, 1e-3)
    assert.near(2, a.load, 1e-3)
    assert.near(5, a.ttft, 1e-3)
    assert.near(3, b.queue, 1e-3)
    assert.near(2, b.load, 1e-3)
    assert.near(6, b.ttft, 1e-3)
    local s = house:status "m"
    assert.same({ 1, 2, 2 }, { tonumber(s.loads_total), tonumber(s.cold_starts), tonumber(s.calls) })
  end)

  it("are asked for by one demand, however many wait", function()
    open({ load = 5 }, {})
    house:run(1)
    local turns = house.turns
    for _ = 1, 80 do
      house:call "m"
    end
    house:run(4)
    assert.is_true(house.turns - turns <= 4, house.turns - turns)
    assert.equal(1, house.models.m.loads)
  end)

  it("cost a crowd no more each than a few", function()
    local function seconds(n)
      open({ load = 1 }, { queue_max = 100000, max_concurrency = 4 })
      local start = os.clock()
      local calls = {}
      for i = 1, n do
        calls[i] = house:call("m", { priority = i * 7919 % 11, service = 0.001 })
      end
      for i = 1, n, 2 do -- from all over the line
        house:cancel(calls[i * 7919 % n + 1])
      end
      house:run(1000)
      local took = os.clock() - start
      house:close()
      house = nil
      return took
    end
    seconds(1000)
    local few, crowd = seconds(2000), seconds(16000)
    assert.is_true(crowd < 8 * few * 4, ("2000: %.3f s, 16000: %.3f s"):format(few, crowd))
  end)
end)
