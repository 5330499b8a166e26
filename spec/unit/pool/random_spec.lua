--- core/pool under random steps, judged by what this file counts itself: requests come, end and leave; loads succeed, fail, hang; the engine
--- dies or is away; limits, settings and declarations change. 100,000 steps; MOONPOOL_SOAK=1 takes 3,000,000.
local pool = require "spec.support.pool"
local C = pool.C

local STEPS = os.getenv "MOONPOOL_SOAK" and 3000000 or 100000
local NAMES = { "a", "b", "c", "d" }
local EPSILON = 1e-6

--- Numbers of our own: the same on each machine.
local function generator(seed)
  local state = seed
  return function(least, most)
    state = (state * 16807) % 2147483647
    local x = state / 2147483647
    if not least then
      return x
    end
    return least + math.floor(x * (most - least + 1))
  end
end

local function before(x, y) -- the order of the line
  if x.background ~= y.background then
    return y.background
  end
  if (x.priority or 0) ~= (y.priority or 0) then
    return (x.priority or 0) > (y.priority or 0)
  end
  return x.id < y.id
end

local function run(seed, steps)
  local random = generator(seed)
  local house, limit, loading, calls, counts
  local function count(what)
    counts[what] = (counts[what] or 0) + 1
  end
  local function chance(p)
    return random() < p
  end
  counts, calls, loading = {}, {}, {}
  for _, name in ipairs(NAMES) do
    loading[name] = { total = 0 }
  end

  local function loaded(name) -- seconds that it has been loading, in all
    local l = loading[name]
    return l.total + (l.since and house.now - l.since or 0)
  end

  local function model(name)
    return {
      need = ({ a = 30, b = 50, c = 60, d = 20 })[name],
      load = function()
        return chance(0.05) and 1000 or chance(0.5) and random() or random() * 5
      end,
      unload = 0.05,
      fail = function()
        return chance(0.15) and "bad luck" or nil
      end,
      settings = { min_replicas = chance(0.1) and 1 or 0, scaledown_window = random(0, 20), startup_timeout = random(3, 20),
        target_concurrency = random(1, 8), max_concurrency = random(1, 6), queue_max = random(0, 30), queue_timeout = random(1, 30) },
      preload = chance(0.1),
    }
  end

  limit = 100
  house = pool.house { memory = limit, max_wait = 4, min_residency = 1, ports = 3,
    check_memory = function() -- at each load: what the engine holds, with it
      local held = 0
      for _, m in pairs(house.models) do
        held = held + m.engine.held
      end
      assert(limit == 0 or held <= limit, "over-committed")
      count "load"
    end,
    check_places = function(m)
      assert(m.running <= house:facts(m.name).settings.max_concurrency, "more run than may")
    end,
    on_move = function(move)
      local l = loading[move.model]
      if move.to == "loading" then
        l.since = house.now
      elseif l.since then
        l.total, l.since = l.total + house.now - l.since, nil
      end
      count(move.line:match ": (.*)")
    end }
  for _, name in ipairs(NAMES) do
    house:declare(name, model(name))
  end

  local function judge()
    local waiting, running, reserved = {}, {}, 0
    for id, call in pairs(calls) do
      local name = call.model.name
      if call.state == "waiting" then
        waiting[name] = (waiting[name] or 0) + 1
        local wait = house.now - call.came - (loaded(name) - call.loaded)
        if not loading[name].since then
          assert(wait <= call.timeout + EPSILON, "waits for longer than it may")
        end
        assert(not call.until_ or house.now <= call.until_ + EPSILON, "waits past its deadline")
      else
        if call.started and not call.judged then
          call.judged = true
          count "started"
          assert(call.started - call.came - (call.loaded_then or 0) <= call.timeout + EPSILON, "started after its time")
          assert(not call.until_ or call.started <= call.until_ + EPSILON, "started after its deadline")
          call.just = true
        end
        if call.state == "running" then
          running[name] = (running[name] or 0) + 1
        else
          count(call.code or call.state)
          calls[id] = nil
        end
      end
    end
    for _, call in pairs(calls) do -- nobody was passed who could have started
      if call.just then
        call.just = nil
        for _, other in pairs(calls) do
          assert(not (other.model == call.model and other.state == "waiting" and other.prepared and other.prepared < call.started and
            not other.hold and before(other, call)), "passed in line")
        end
      end
    end
    for _, name in ipairs(NAMES) do
      local s = house:status(name)
      assert(s.waiting == (waiting[name] or 0), "waiting")
      assert(s.in_flight == (running[name] or 0), "in flight")
      reserved = reserved + house.models[name].engine.held
    end
    assert(tonumber(house:room().reserved) == reserved, "the ledger says " .. tonumber(house:room().reserved) .. ", the engine holds " .. reserved)
  end

  local function request(name)
    local deadline = chance(0.2) and random() * 10 or nil
    local o = { port = random(1, 3), priority = chance(0.3) and random(-3, 3) or 0, background = chance(0.1), deadline = deadline,
      service = chance(0.02) and "never" or chance(0.3) and random() * 3 or random() * 0.1, prepare = chance(0.5) and random() * 0.1 or 0 }
    local m, s = house.models[name], house:status(name)
    local f = house:facts(name)
    local full = s.waiting + s.in_flight >= f.settings.max_concurrency + f.settings.queue_max
    local call, code, _, retry = house:call(name, o)
    if not call then
      count("refused " .. code)
      assert(m.removed or retry >= 1, "no Retry-After")
      assert(code ~= "queue_full" or full, "refused although there is room")
      return
    end
    assert(not full, "taken although it is full")
    assert(not m.removed, "taken although it is removed")
    count "accepted"
    call.until_ = deadline and house.now + deadline
    call.timeout, call.loaded = f.settings.queue_timeout, loaded(name)
    setmetatable(call, { __index = o, __newindex = function(t, k, v)
      rawset(t, k, v)
      if k == "started" then
        rawset(t, "loaded_then", loaded(name) - t.loaded)
      end
    end })
    calls[call.id] = call
  end

  local some = function(f)
    local list = {}
    for _, call in pairs(calls) do
      list[#list + 1] = call
    end
    table.sort(list, function(x, y) return x.id < y.id end)
    if #list > 0 then
      f(list[random(1, #list)])
    end
  end

  for _ = 1, steps do
    local name = NAMES[random(1, #NAMES)]
    local m = house.models[name]
    local dice = random()
    if dice < 0.45 then
      for _ = 1, chance(0.05) and random(2, 40) or 1 do
        request(name)
      end
    elseif dice < 0.52 then
      some(function(call) house:cancel(call) end)
    elseif dice < 0.53 then
      house:die()
      house.away = chance(0.3)
    elseif dice < 0.55 then
      house.away = false
      house.dirty = true
    elseif dice < 0.57 then
      local key = ({ "max_concurrency", "queue_max", "max_replicas", "min_replicas", "scaledown_window" })[random(1, 5)]
      if chance(0.5) then
        house:ask(name, { [key] = random(key:match "replicas" and 0 or 1, key:match "replicas" and 1 or 8) })
      else
        house:ask(name, {}, 255)
      end
    elseif dice < 0.575 then
      limit = ({ 0, 60, 80, 100, 130, 200 })[random(1, 6)]
      C.mp_keeper_device(house.keeper, "fake", limit, random(0, 6), random(0, 3))
      house.dirty = true
    elseif dice < 0.585 and m.declared then
      C.mp_keeper_remove(house.keeper, m.ptr)
      m.declared, m.removed = false, true
      house.dirty = true
    elseif dice < 0.60 then
      local change = model(name)
      change.unsaid = true
      house:declare(name, change)
      m.removed = false
      house.dirty = true
    elseif dice < 0.61 then
      C.mp_keeper_load(house.keeper, m.ptr, house.err)
      house.dirty = true
    elseif dice < 0.62 then
      C.mp_keeper_unload(house.keeper, m.ptr, house.err)
      house.dirty = true
    else
      house:run(chance(0.1) and random() * 10 or random() * 0.3)
      house.moves, house.moved, house.started = {}, {}, {}
      judge()
    end
  end
  -- At the end: nobody asks, everybody leaves, everything goes.
  house.away = false
  for _, name in ipairs(NAMES) do
    C.mp_keeper_remove(house.keeper, house.models[name].ptr)
  end
  house.dirty = true
  for _, call in pairs(calls) do
    if call.service == "never" then
      house:cancel(call)
    end
  end
  house:run(1200)
  judge()
  assert(next(calls) == nil, "a request that never ended")
  assert(tonumber(house:room().reserved) == 0 and house:room().loaded == 0, "something is still loaded")
  house:close()
  return counts
end

describe("the pool, in whatever order things happen,", function()
  it("never over-commits, loads a model once at a time, keeps every bound, and is empty at the end", function()
    local all, rounds = {}, STEPS / 5000
    for seed = 1, rounds do
      for what, n in pairs(run(seed * 7919, STEPS / rounds)) do
        all[what] = (all[what] or 0) + n
      end
    end
    if os.getenv "MOONPOOL_SPEC_LOG" then
      local lines = {}
      for what, n in pairs(all) do
        lines[#lines + 1] = ("%8d %s"):format(n, what)
      end
      table.sort(lines)
      print(table.concat(lines, "\n"))
    end
    for _, what in ipairs { "done", "cancelled", "engine_lost", "queue_timeout", "deadline", "unavailable", "refused queue_full", "refused deadline",
      "refused unavailable", "warm -> draining (evicted)", "warm -> draining (idle)", "warm -> draining (removed)", "warm -> cold (engine lost)",
      "loading -> failed (startup timeout)", "loading -> failed (load failed)", "loading -> failed (engine lost)", "failed -> loading (retry)" } do
      assert.is_true((all[what] or 0) > 0, "it never came to: " .. what)
    end
  end)
end)
