--- core/pool/keeper.h: which models are loaded, when and why. In virtual time, on a device that the spec plays.
local pool = require "spec.support.pool"
local C = pool.C

local house
local function open(o)
  house = pool.house(o)
  return house
end
local function close()
  if house then
    house:close()
    house = nil
  end
end

--- The transitions since the last look.
local function moves()
  local list = house.moves
  house.moves = {}
  return list
end

local function reason(i)
  return house.moved[#house.moved - (i or 0)].reason
end

describe("a model", function()
  after_each(close)

  it("is loaded when it is asked for, once, and goes after its window", function()
    open { models = { a = { load = 1.5, settings = { scaledown_window = 10 } } } }
    house:run(5)
    assert.same({}, moves())
    local calls = {}
    for i = 1, 30 do
      calls[i] = house:call "a"
    end
    house:run(1)
    assert.same({ "a: cold -> loading (demand)" }, moves())
    assert.equal("30 requests", reason())
    house:run(1)
    assert.same({ "a: loading -> warm (loaded)" }, moves())
    house:run(5)
    for _, call in ipairs(calls) do
      assert.equal("done", call.state)
    end
    local last = house:call("a", { service = 2 })
    house:run(11.9)
    assert.same({ "done", {} }, { last.state, moves() })
    house:run(0.2)
    assert.same({ "a: warm -> draining (idle)", "a: draining -> cold (drained)" }, moves())
    assert.equal("idle for 10.0 s of 10", reason(1))
    assert.near(last.ended + 10, house.moved[#house.moved - 1].at, 1e-3)
    assert.near(17.5, house.moved[#house.moved - 1].seconds, 0.2)
    assert.equal(1, house.models.a.loads)
  end)

  it("goes at once with a window of 0", function()
    open { models = { a = { settings = { scaledown_window = 0 } } } }
    house:call "a"
    house:run(1.2)
    assert.equal("cold", house:state "a")
  end)

  it("is kept by min_replicas, from the start; stays when it was loaded by hand; goes when the limits say so", function()
    open { models = { a = { settings = { min_replicas = 1, scaledown_window = 5 } }, b = { settings = { scaledown_window = 5 }, preload = true } } }
    house:run(3)
    assert.same({ "a: cold -> loading (start)", "b: cold -> loading (start)", "a: loading -> warm (loaded)", "b: loading -> warm (loaded)" },
      moves())
    house:run(100)
    assert.same({ "b: warm -> draining (idle)", "b: draining -> cold (drained)" }, moves())
    assert.is_true(house:ask("a", { min_replicas = 0 }))
    house:run(1)
    assert.same({ "a: warm -> draining (idle)", "a: draining -> cold (drained)" }, moves())
    assert.is_true(house:ask("a", { min_replicas = 1 }))
    house:run(2)
    assert.same({ "a: cold -> loading (scale)", "a: loading -> warm (loaded)" }, moves())
    assert.equal("min_replicas", reason(1))
    assert.is_true(house:ask("a", { max_replicas = 0 }))
    house:run(1)
    assert.same({ "a: warm -> draining (scale)", "a: draining -> cold (drained)" }, moves())
    assert.equal("max_replicas is 0", reason(1))
    local call, code, message, retry = house:call "a"
    assert.same({ nil, "unavailable", "model 'a' takes no requests now: its max_replicas is 0", 60 }, { call, code, message, retry })
    assert.is_true(house:ask("a", {}, bit.lshift(1, C.MP_SET_max_replicas_BIT)))
    house:run(2)
    assert.same({ "a: cold -> loading (scale)", "a: loading -> warm (loaded)" }, moves())
  end)

  it("drops who waits when max_replicas becomes 0", function()
    open { models = { a = { load = 5, settings = { max_concurrency = 1 } } } }
    local call = house:call "a"
    house:run(1)
    house:ask("a", { max_replicas = 0 })
    house:run(1)
    assert.same({ "failed", "unavailable" }, { call.state, call.code })
    assert.same({ "a: cold -> loading (demand)", "a: loading -> draining (scale)", "a: draining -> cold (drained)" }, moves())
  end)

  it("is loaded and let go by hand", function()
    open { models = { a = { settings = { min_replicas = 1, scaledown_window = 5 } }, b = { settings = { scaledown_window = 5 } } } }
    house:run(3)
    moves()
    assert.equal(0, C.mp_keeper_load(house.keeper, house.models.b.ptr, house.err))
    house.dirty = true
    house:run(2)
    assert.same({ "b: cold -> loading (asked)", "b: loading -> warm (loaded)" }, moves())
    assert.equal(0, C.mp_keeper_load(house.keeper, house.models.b.ptr, house.err)) -- it is
    house.dirty = true
    house:run(3.9)
    assert.same({}, moves())
    house:run(1)
    assert.same({ "b: warm -> draining (idle)", "b: draining -> cold (drained)" }, moves())
    local call = house:call("a", { service = 3 })
    house:run(1)
    assert.equal(0, C.mp_keeper_unload(house.keeper, house.models.a.ptr, house.err))
    house.dirty = true
    house:run(1)
    assert.same({ "a: warm -> draining (asked)" }, moves())
    house:run(100)
    assert.same({ "done", { "a: draining -> cold (drained)" } }, { call.state, moves() }) -- and stays, whatever min_replicas says
    house:call "a"
    house:run(2)
    assert.same({ "a: cold -> loading (demand)", "a: loading -> warm (loaded)" }, moves())
    house:run(100)
    assert.same({}, moves())
    house:ask("a", { max_replicas = 0 })
    house:run(1)
    assert.equal(C.MP_EUNAVAILABLE, C.mp_keeper_load(house.keeper, house.models.a.ptr, house.err))
    assert.equal("model 'a' may have no replica now: its max_replicas is 0", pool.ffi.string(house.err.message))
  end)

  it("is wanted again, after it was let go by hand, when min_replicas rises", function()
    open { models = { a = { settings = { scaledown_window = 5 } } } }
    assert.equal(0, C.mp_keeper_unload(house.keeper, house.models.a.ptr, house.err))
    house.dirty = true
    house:run(2)
    assert.same({}, moves())
    house:ask("a", { min_replicas = 1 })
    house:run(2)
    assert.same({ "a: cold -> loading (scale)", "a: loading -> warm (loaded)" }, moves())
    assert.equal(0, C.mp_keeper_unload(house.keeper, house.models.a.ptr, house.err))
    house:ask("a", { max_concurrency = 3 }) -- says nothing about it
    house:run(20)
    assert.same({ "a: warm -> draining (asked)", "a: draining -> cold (drained)" }, moves())
  end)

  it("brings back who waits when it is let go by hand, also while it loads", function()
    open { models = { a = { load = 5, settings = { max_concurrency = 1 } } } }
    local call = house:call "a"
    house:run(2)
    assert.equal(0, C.mp_keeper_unload(house.keeper, house.models.a.ptr, house.err))
    house.dirty = true
    house:run(10)
    assert.equal("done", call.state)
    assert.same({ "a: cold -> loading (demand)", "a: loading -> draining (asked)", "a: draining -> cold (drained)", "a: cold -> loading (demand)",
      "a: loading -> warm (loaded)" }, moves())
  end)

  it("that cannot be loaded fails who waits, says why, and is tried again after 1, 2, 4 … 60 seconds", function()
    open { models = { a = { load = 0.5, fail = "the file is broken" } } }
    local first = house:call "a"
    house:run(1)
    assert.same({ "failed", "unavailable", "model 'a' cannot be loaded: the file is broken", 1 },
      { first.state, first.code, first.error, first.retry })
    assert.same({ "a: cold -> loading (demand)", "a: loading -> failed (load failed)" }, moves())
    assert.equal("the file is broken", reason())
    local waits = {}
    for _ = 1, 8 do
      local call, code, message, retry = house:call "a"
      assert.same({ nil, "unavailable", "model 'a' cannot be loaded: the file is broken" }, { call, code, message })
      house:run(retry - 0.6)
      waits[#waits + 1] = retry
      house:run(0.6)
      assert.is_not_nil(house:call "a")
      house:run(0.5)
      assert.same({ "a: failed -> loading (retry)", "a: loading -> failed (load failed)" }, moves())
    end
    assert.same({ 1, 2, 4, 8, 16, 32, 60, 60 }, waits)
    local s = house:status "a"
    assert.same({ C.MP_EFORMAT, "the file is broken" }, { s.error, pool.ffi.string(s.reason) })
    house.models.a.fail = nil -- mended, and declared again
    house:declare("a", { unsaid = true })
    assert.same({ "a: failed -> cold (retry)" }, moves())
    local call = house:call "a"
    house:run(1)
    assert.equal("done", call.state)
    house.models.a.fail = "again"
    C.mp_keeper_unload(house.keeper, house.models.a.ptr, house.err)
    house.dirty = true
    house:run(1)
    call = house:call "a"
    house:run(0.6)
    assert.equal(1, call.retry) -- a success forgot the failures
  end)

  it("that failed and is to be kept is tried again by itself; `load` tries at once", function()
    open { models = { a = { load = 0.5, fail = "no", settings = { min_replicas = 1 } } } }
    house:run(1)
    moves()
    house:run(1)
    assert.same({ "a: failed -> loading (retry)", "a: loading -> failed (load failed)" }, moves())
    house.models.a.fail = nil
    C.mp_keeper_load(house.keeper, house.models.a.ptr, house.err)
    house.dirty = true
    house:run(0.6)
    assert.same({ "a: failed -> cold (retry)", "a: cold -> loading (asked)", "a: loading -> warm (loaded)" }, moves())
  end)

  it("waits at least as long as its engine says", function()
    open { models = { a = {} } }
    house:say(house.models.a, "failed", "the device is gone", { retry_ns = 7e9 })
    local _, _, message, retry = house:call "a"
    assert.same({ "model 'a' cannot be loaded: the device is gone", 7 }, { message, retry })
    house.models.a.engine.state = "cold"
  end)

  it("that is not there within its startup_timeout has failed; its memory counts until the engine gives it back", function()
    open { memory = 100, models = { a = { need = 80, load = 1000, unload = 2, settings = { startup_timeout = 5 } }, b = { need = 80, load = 1 } } }
    local a = house:call "a"
    house:run(4)
    local b = house:call("b", {})
    house:run(1.5)
    assert.same({ "failed", "model 'a' cannot be loaded: it was not loaded within its startup_timeout of 5 seconds" }, { a.state, a.error })
    assert.same({ "a: cold -> loading (demand)", "a: loading -> failed (startup timeout)" }, moves())
    assert.same({ 80, 0 }, { tonumber(house:room().reserved), house.models.b.loads })
    house:run(2)
    assert.same({ "b: cold -> loading (demand)" }, moves())
    house:run(2)
    assert.equal("done", b.state)
  end)

  it("whose engine dies while it loads has failed; while it is warm, it comes back within its window", function()
    open { models = { a = { load = 2, settings = { scaledown_window = 30 } } } }
    local call = house:call "a"
    house:run(1)
    house:die()
    house:run(0)
    assert.same({ "unavailable", "model 'a' cannot be loaded: the engine was killed while it loaded the model" }, { call.code, call.error })
    assert.same({ "a: cold -> loading (demand)", "a: loading -> failed (engine lost)" }, moves())
    house:run(1.1)
    call = house:call("a", { service = 20 })
    house:run(5)
    moves()
    house:die()
    house:run(3)
    assert.equal("failed", call.state)
    assert.same({ "a: warm -> cold (engine lost)", "a: cold -> loading (retry)", "a: loading -> warm (loaded)" }, moves())
    assert.equal("it was loaded when its engine was lost", reason(1))
    house:run(40)
    assert.same({ "a: warm -> draining (idle)", "a: draining -> cold (drained)" }, moves())
    house:die()
    house:run(100)
    assert.same({}, moves())
  end)

  it("waits for an engine that is not there yet", function()
    open { models = { a = {} } }
    house.away = true
    local call = house:call "a"
    house:run(3)
    assert.same({}, moves())
    assert.is_true(C.mp_keeper_needed(house.keeper, "fake"))
    house.away = false
    house:run(2)
    assert.equal("done", call.state)
  end)

  it("that an engine has when the gateway comes is adopted", function()
    open { memory = 100, models = { a = { need = 60 }, b = { need = 30 } } }
    house.models.a.engine.held = 60
    house:say(house.models.a, "warm")
    house:say(house.models.b, "loading")
    assert.same({ "a: cold -> warm (found loaded)", "b: cold -> loading (found loaded)" }, moves())
    assert.equal(90, tonumber(house:room().reserved))
    house.models.b.engine.held = 30
    house:say(house.models.b, "warm")
    local call = house:call "b"
    house:run(1)
    assert.same({ "b: loading -> warm (loaded)" }, moves())
    assert.same({ "done", 0 }, { call.state, house.models.b.loads })
  end)

  it("that is removed serves who waits, takes nobody new, and goes", function()
    open { models = { a = { load = 2 } } }
    local call = house:call("a", { service = 3 })
    house:run(1)
    C.mp_keeper_remove(house.keeper, house.models.a.ptr)
    house.dirty = true
    local again, code, message = house:call "a"
    assert.same({ nil, "unavailable", "model 'a' was removed from the configuration" }, { again, code, message })
    house:run(2)
    assert.same({ "running", {} }, { call.state, house.gone })
    house:run(3)
    assert.same({ "done", { "a" } }, { call.state, house.gone })
    assert.same({ "a: cold -> loading (demand)", "a: loading -> warm (loaded)", "a: warm -> draining (removed)", "a: draining -> cold (drained)" },
      moves())
    assert.equal(C.MP_ENOENT, C.mp_keeper_load(house.keeper, house.models.a.ptr, house.err))
    assert.equal("model 'a' is not in the configuration", pool.ffi.string(house.err.message))
    house:declare "a"
    call = house:call "a"
    house:run(4)
    assert.equal("done", call.state)
  end)

  it("that is removed while it loads and nobody waits is given up", function()
    open { models = { a = { load = 20, preload = true } } }
    house:run(1)
    C.mp_keeper_remove(house.keeper, house.models.a.ptr)
    house.dirty = true
    house:run(1)
    assert.same({ "a: cold -> loading (start)", "a: loading -> draining (removed)", "a: draining -> cold (drained)" }, moves())
    assert.same({ "a" }, house.gone)
  end)

  it("that its engine replaces takes no requests meanwhile", function()
    open { models = { a = { settings = { max_concurrency = 4 } } } }
    house:call("a", { service = 5 })
    house:run(2)
    moves()
    local m = house.models.a
    house:say(m, "draining", nil, { replacing = 1 })
    local call = house:call "a"
    house:run(4)
    assert.equal("waiting", call.state)
    house:say(m, "loading", nil, { replacing = 1 })
    house:run(1)
    house:say(m, "warm")
    house:run(1)
    assert.equal("done", call.state)
    assert.same({ "a: warm -> draining (replaced)", "a: draining -> loading (replaced)", "a: loading -> warm (replaced)" }, moves())
  end)

  it("forgets what was asked when the configuration says something new of it", function()
    open { models = { a = { settings = { queue_max = 5 } } } }
    house:ask("a", { queue_max = 7, max_concurrency = 3 })
    house:run(1)
    local f = house:facts "a"
    assert.same({ 7, 3 }, { f.settings.queue_max, f.settings.max_concurrency })
    house:declare("a", { settings = { queue_max = 5 } })
    house:run(1)
    assert.equal(7, house:facts("a").settings.queue_max)
    house:declare("a", { settings = { queue_max = 6 } })
    house:run(1)
    f = house:facts "a"
    assert.same({ 6, 3 }, { f.settings.queue_max, f.settings.max_concurrency })
    assert.same({ nil, "'max_concurrency' must be from 1 to 1024, not 0" }, { house:ask("a", { max_concurrency = 0 }) })
    assert.same({ nil, "'queue.timeout' must be from 0 to 86400, not -1" }, { house:ask("a", { queue_timeout = -1 }) })
  end)

  it("has facts", function()
    open { memory = 100, models = { a = { need = 60, load = 2, settings = { max_concurrency = 1 } } } }
    house:run(7)
    local f = house:facts "a"
    assert.same({ "a", "fake", C.MP_MODEL_COLD, 0, 0 }, { pool.ffi.string(f.name), pool.ffi.string(f.device), tonumber(f.state), f.replicas, f.warm })
    assert.near(7, f.idle, 1e-3)
    house:call("a", { service = 4 })
    house:call("a", { service = 4 })
    house:run(1)
    f = house:facts "a"
    assert.same({ 1, 0, 0, 2, 60, 60 }, { f.replicas, f.warm, f.in_flight, f.queued, tonumber(f.memory), tonumber(f.need) })
    assert.near(0, f.oldest_wait, 1e-6)
    house:run(4)
    f = house:facts "a"
    assert.same({ 1, 1, 1, 1, 0 }, { f.replicas, f.warm, f.in_flight, f.queued, f.idle })
    assert.near(3, f.oldest_wait, 1e-3)
    assert.near(3, f.resident, 1e-3)
    assert.near(2, f.load_seconds, 1e-3)
    house:run(10)
    f = house:facts "a"
    assert.near(5, f.idle, 0.01)
    assert.near(4, f.service_seconds, 1e-3)
    assert.same({ 2, 1 }, { tonumber(f.calls), tonumber(f.loads) })
  end)
end)

describe("a scale policy", function()
  after_each(close)

  it("decides within min_replicas and max_replicas, and is asked every second", function()
    local asked, answer = 0, 0
    open { models = { a = { settings = { scaledown_window = 5 } } }, scale = function()
      asked = asked + 1
      return answer, "because"
    end }
    house:run(10)
    assert.is_true(asked >= 10 and asked <= 14)
    local call = house:call "a"
    house:run(3)
    assert.same({ "waiting", {} }, { call.state, moves() }) -- it says none
    answer = 3
    house:run(3)
    assert.equal("done", call.state)
    assert.same({ "a: cold -> loading (demand)", "a: loading -> warm (loaded)" }, moves())
    assert.equal("because", reason(1))
    house:run(20)
    assert.same({}, moves())
    answer = 0
    house:run(2)
    assert.same({ "a: warm -> draining (idle)", "a: draining -> cold (drained)" }, moves())
    answer = 1
    house:run(2)
    assert.same({ "a: cold -> loading (scale)", "a: loading -> warm (loaded)" }, moves())
    answer = 0
    house:run(2)
    assert.same({ "a: warm -> draining (scale)", "a: draining -> cold (drained)" }, moves())
    house:ask("a", { min_replicas = 1 })
    house:run(2)
    assert.same({ "a: cold -> loading (scale)", "a: loading -> warm (loaded)" }, moves())
    house:ask("a", { max_replicas = 0 })
    answer = 1
    house:run(2)
    assert.same({ "a: warm -> draining (scale)", "a: draining -> cold (drained)" }, moves())
  end)

  it("that has no answer leaves it to the keeper's own rule", function()
    open { models = { a = { settings = { scaledown_window = 5 } } }, scale = function() return -1 end }
    house:call "a"
    house:run(4)
    assert.equal("warm", house:state "a")
    house:run(5)
    assert.equal("cold", house:state "a")
  end)
end)

describe("a device's memory", function()
  after_each(close)

  it("is set aside before a load; the least recently used goes first", function()
    open { memory = 100, min_residency = 2, models = { a = { need = 40 }, b = { need = 40 }, c = { need = 40, load = 0.5 }, d = { need = 101 } } }
    house:call "a"
    house:run(2)
    house:call "b"
    house:run(5)
    house:call "a"
    house:run(5)
    moves()
    local call = house:call "c"
    house:run(1)
    assert.same({ "b: warm -> draining (evicted)", "b: draining -> cold (drained)", "c: cold -> loading (demand)", "c: loading -> warm (loaded)" },
      moves())
    assert.equal("room for 'c': least recently used", reason(3))
    assert.equal("done", call.state)
    assert.same({ 80, 1, 2 }, { tonumber(house:room().reserved), tonumber(house:room().swaps), house:room().loaded })
    call = house:call "d"
    house:run(1)
    assert.equal("model 'd' cannot be loaded: it needs 1 MiB, and its device 'fake' may hold 0 MiB in all", call.error)
    assert.same({ "d: cold -> failed (load failed)" }, moves())
  end)

  it("waits for the engine to say what a load needs", function()
    open { memory = 100, models = { a = { need = 40, unsaid = true } } }
    house:call "a"
    house:run(2)
    assert.same({}, moves())
    assert.is_true(C.mp_keeper_needed(house.keeper, "fake"))
    house:say(house.models.a, "cold")
    house:run(2)
    assert.equal("warm", house:state "a")
  end)

  it("is freed as the evict policy says, if that suffices", function()
    local answer, asked
    open { memory = 100, min_residency = 0, models = { a = { need = 30 }, b = { need = 30 }, c = { need = 30 }, d = { need = 50 } },
      evict = function(list, need)
        asked = { need = need }
        for i, f in ipairs(list) do
          asked[i] = pool.ffi.string(f.name)
        end
        return answer, "mine"
      end }
    local function evicted()
      local list = {}
      for _, line in ipairs(moves()) do
        list[#list + 1] = line:match "^(%w): warm %-> draining %(evicted%)"
      end
      return table.concat(list)
    end
    local function try(picks)
      answer = picks
      for _, name in ipairs { "a", "b", "c" } do
        if house:state(name) ~= "warm" then
          C.mp_keeper_unload(house.keeper, house.models.d.ptr, house.err)
          house.dirty = true
          house:run(1)
          break
        end
      end
      for _, name in ipairs { "a", "b", "c" } do
        if house:state(name) ~= "warm" then
          C.mp_keeper_load(house.keeper, house.models[name].ptr, house.err)
          house.dirty = true
          house:run(2)
        end
      end
      for _, name in ipairs { "a", "b", "c" } do -- in this order of use
        house:call(name)
        house:run(0.5)
      end
      moves()
      house:call "d"
      house:run(2)
      return evicted()
    end
    assert.equal("cb", try { 2, 1, 0 })
    assert.same({ need = 40, "a", "b", "c" }, asked)
    assert.equal("mine", reason(2):match "mine" or reason(3):match "mine" or reason(4):match "mine" or reason(5):match "mine")
    assert.equal("ab", try(nil))
    assert.equal("ab", try { 2 }) -- too little
    assert.equal("ab", try { 2, 2, 2 })
    assert.equal("ab", try { 7, 1 })
    assert.equal("ab", try { 1, 2, 0, 0 })
    assert.equal("ac", try { 0, 2 })
  end)

  it("that is lowered sends away who is used least, and nothing is loaded before it suffices", function()
    open { memory = 100, models = { a = { need = 40 }, b = { need = 40 }, c = { need = 20 } } }
    house:call("a", { service = 10 })
    house:run(2)
    house:call "b"
    house:run(2)
    moves()
    C.mp_keeper_device(house.keeper, "fake", 50, 10, 5)
    house.dirty = true
    house:run(1)
    assert.same({ "b: warm -> draining (evicted)", "b: draining -> cold (drained)" }, moves())
    assert.equal("room for a lower limit of the device's memory: least recently used", reason(1))
    C.mp_keeper_device(house.keeper, "fake", 30, 10, 5)
    local c = house:call "c"
    house:run(5)
    assert.same({ "a: warm -> draining (evicted)" }, moves())
    assert.equal("waiting", c.state)
    house:run(5)
    assert.same({ "a: draining -> cold (drained)", "c: cold -> loading (demand)", "c: loading -> warm (loaded)" }, moves())
  end)

  it("is as much as it is when there is no limit", function()
    open { models = { a = { need = 1e12 }, b = { need = 1e12 } } }
    house:call "a"
    house:call "b"
    house:run(2)
    assert.same({ "warm", "warm", 0 }, { house:state "a", house:state "b", tonumber(house:room().swaps) })
  end)

  it("says whether its engine is needed", function()
    open { models = { a = { settings = { scaledown_window = 1 } } } }
    house:run(1)
    assert.is_false(C.mp_keeper_needed(house.keeper, "fake"))
    house:call "a"
    house:run(1.5)
    assert.is_true(C.mp_keeper_needed(house.keeper, "fake"))
    house:run(5)
    assert.is_false(C.mp_keeper_needed(house.keeper, "fake"))
    assert.is_false(C.mp_keeper_needed(house.keeper, "cuda"))
  end)
end)

describe("two models with room for one", function()
  after_each(close)

  local function two(o)
    o = o or {}
    return open { memory = 100, max_wait = o.max_wait or 6, min_residency = o.min_residency or 2,
      models = { a = { need = 60, load = 1.5, settings = o.a }, b = { need = 60, load = 1.5, settings = o.b } }, check_memory = function()
        local held = 0
        for _, m in pairs(house.models) do
          held = held + m.engine.held
        end
        assert(held <= 100, "over-committed")
      end }
  end

  it("do not swap each time: A B A B at 4 a second for 30 s", function()
    two { a = { queue_max = 1000 }, b = { queue_max = 1000 } }
    local calls, in_order, last = {}, 0, nil
    for i = 0, 119 do
      local name = i % 2 == 0 and "a" or "b"
      if name ~= last then -- first come, first served: a swap whenever the next request is for the other
        in_order, last = in_order + 1, name
      end
      house:at(i / 4, function()
        calls[#calls + 1] = assert(house:call(name, { service = 0.1 }))
      end)
    end
    house:run(60)
    local swaps, longest = 0, 0
    for _, m in ipairs(house.moved) do
      swaps = swaps + (m.to == "loading" and 1 or 0)
    end
    for _, call in ipairs(calls) do
      assert.equal("done", call.state)
      longest = math.max(longest, call.started - call.came)
    end
    assert.equal(120, #calls)
    assert.is_true(swaps <= in_order / 4, ("%d swaps, %d in order"):format(swaps, in_order))
    assert.is_true(longest <= 6, "waited " .. longest)
    -- Residency: nobody with requests was sent away before 2 s.
    for _, m in ipairs(house.moved) do
      if m.line:match "warm %-> draining %(evicted%)" then
        assert.is_true(m.seconds >= 1.5, m.seconds)
      end
    end
    if os.getenv "MOONPOOL_SPEC_LOG" then
      print(("A B A B: %d swaps of %d, longest wait %.2f s"):format(swaps, in_order, longest))
    end
  end)

  it("let one at rest go at once, after as long as loading it takes, at most min_residency", function()
    two {}
    house:call "a"
    house:run(10)
    local b = house:call("b", { service = 0.1 })
    house:run(1.6)
    assert.is_true(b.state ~= "waiting")
    house:run(0.2) -- b ended a moment ago
    local a = house:call "a"
    house:run(1.2)
    assert.equal("warm", house:state "b")
    house:run(0.5)
    assert.equal("loading", house:state "a")
    house:run(2)
    assert.equal("done", a.state)
  end)

  it("let a busy one go when the other's request would wait too long, not before min_residency; its line waits its turn", function()
    two { a = { max_concurrency = 1, queue_timeout = 0 }, b = { queue_timeout = 0 } }
    for _ = 1, 40 do
      house:call("a", { service = 0.5 })
    end
    house:run(2) -- warm since 1.5
    moves()
    local b = house:call "b"
    house:run(0.1)
    house:run(0)
    local expected = house:progress(b).expected
    assert.is_true(expected > 3 and expected < 4, expected) -- until its turn; how long it loads is not known
    house:run(5.9)
    assert.is_true(b.started - b.came <= 6 and b.started - b.came > 4, b.started - b.came)
    assert.same({ "a: warm -> draining (evicted)", "a: draining -> cold (drained)", "b: cold -> loading (demand)", "b: loading -> warm (loaded)" },
      moves())
    house:run(4)
    assert.same({ "b: warm -> draining (evicted)", "b: draining -> cold (drained)", "a: cold -> loading (demand)" }, { unpack(moves(), 1, 3) })
    house:run(60)
    for _, call in pairs(house.by_id) do
      assert.equal("done", call.state)
    end
  end)

  it("stay for min_residency however long the other has waited", function()
    two { max_wait = 1, min_residency = 5, a = { max_concurrency = 1, queue_timeout = 0 }, b = { queue_timeout = 0 } }
    for _ = 1, 100 do
      house:call("a", { service = 0.5 })
    end
    local b = house:call "b"
    house:run(6)
    assert.equal("waiting", b.state)
    house:run(3)
    assert.equal("done", b.state)
  end)

  it("of which one is kept by min_replicas: the other is served within max_wait, then it comes back", function()
    two { a = { min_replicas = 1 } }
    house:run(20)
    local b = house:call "b"
    house:run(3)
    assert.same({ "warm", "waiting" }, { house:state "a", b.state })
    house:run(3)
    assert.equal("done", b.state)
    house:run(4)
    assert.equal("warm", house:state "a")
  end)

  it("both kept by min_replicas: the first stays", function()
    two { a = { min_replicas = 1 }, b = { min_replicas = 1 } }
    house:run(1000)
    assert.same({ 1, 0 }, { house.models.a.loads, house.models.b.loads })
  end)

  it("are not sent away in vain", function()
    open { memory = 100, min_residency = 2, models = { a = { need = 30 }, b = { need = 60 }, c = { need = 100 } } }
    house:call "a"
    house:run(5)
    house:call("b", { service = 8 })
    house:run(2)
    moves()
    local c = house:call "c"
    house:run(5) -- a is at rest, but that would not do
    assert.same({}, moves())
    house:run(6)
    assert.equal("done", c.state)
  end)
end)

describe("a schedule", function()
  after_each(close)

  local function schedule(zone, list)
    local C2 = require "spec.support.ffi" "core/base/cron.h"
    local tz, err = pool.ffi.new "struct mp_tz *[1]", pool.ffi.new "struct mp_err"
    assert.equal(0, C2.mp_tz_open(tz, zone, err))
    local out = pool.ffi.new("struct mp_pool_schedule[?]", #list)
    for i, s in ipairs(list) do
      assert.equal(0, C2.mp_cron_parse(out[i - 1].cron, s[1], err))
      out[i - 1].tz, out[i - 1].override, out[i - 1].text = tz[0], pool.override(s[2]), s[1]
    end
    return out, #list, tz[0]
  end

  -- 30 March 2025: 02:00 becomes 03:00; 26 October 2025: 03:00 becomes 02:00.
  for _, day in ipairs {
    { name = "an ordinary day", midnight = 1749506400, hours = 24, warm = { { 6.5, 18 } } }, -- 10 June 2025
    { name = "the day the clocks go forward", midnight = 1743289200, hours = 23, warm = { { 5.5, 17 } } },
    { name = "the day the clocks go back", midnight = 1761429600, hours = 25, warm = { { 7.5, 19 } } },
  } do
    it("keeps its hours on " .. day.name, function()
      local list, n, tz = schedule("Europe/Berlin", { { "30 6 * * *", { min_replicas = 1 } }, { "0 18 * * *", { min_replicas = 0 } } })
      open { wall = day.midnight, models = { a = { load = 2, schedules = list, n_schedules = n, settings = { scaledown_window = 60 } } } }
      local begin = house.now
      house:run(day.hours * 3600)
      local seen = {}
      for _, m in ipairs(house.moved) do
        seen[#seen + 1] = { m.line, (m.at - begin) / 3600 }
      end
      assert.equal(4, #seen)
      assert.equal("a: cold -> loading (scale)", seen[1][1])
      assert.near(day.warm[1][1], seen[1][2], 1.01 / 3600)
      assert.equal("a: warm -> draining (idle)", seen[3][1])
      assert.near(day.warm[1][2], seen[3][2], 1.01 / 3600)
      close()
      C.mp_tz_free(tz)
    end)
  end

  it("and what was asked: of each key, the latest counts", function()
    local list, n, tz = schedule("UTC", { { "0 8 * * *", { min_replicas = 1, max_concurrency = 32 } }, { "0 20 * * *", { min_replicas = 0 } } })
    open { wall = 1749513600, models = { a = { schedules = list, n_schedules = n } } } -- midnight
    local function now()
      local f = house:facts "a"
      return { f.settings.min_replicas, f.settings.max_concurrency }
    end
    house:run(3600)
    assert.same({ 0, 32 }, now()) -- of yesterday's ticks
    house:ask("a", { min_replicas = 1 })
    house:run(1)
    assert.same({ 1, 32 }, now())
    house:run(7 * 3600)
    house:ask("a", { max_concurrency = 4 })
    house:run(13 * 3600)
    assert.same({ 0, 4 }, now()) -- what was asked at 1:00 is older than the tick at 20:00
    house:run(12 * 3600)
    assert.same({ 1, 32 }, now())
    close()
    C.mp_tz_free(tz)
  end)

  it("that allows replicas again says when", function()
    local list, n, tz = schedule("UTC", { { "0 8 * * *", { max_replicas = 1 } }, { "0 20 * * *", { max_replicas = 0 } } })
    open { wall = 1749513600 + 7.5 * 3600, models = { a = { schedules = list, n_schedules = n } } }
    house:run(0)
    local _, code, _, retry = house:call "a"
    assert.same({ "unavailable", 1800 }, { code, retry })
    house:run(1801)
    assert.is_not_nil(house:call "a")
    house:run(5)
    close()
    C.mp_tz_free(tz)
  end)
end)
