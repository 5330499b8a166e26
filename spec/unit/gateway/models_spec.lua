--- core/gateway/models.h: what is declared, ordered, checked and forgotten at an engine that the spec plays; when its process is wanted, and
--- what its coming and going means for models.
local C, ffi = require "spec.support.ffi"("core/gateway/models.h", "core/gateway/calls.h", "core/gateway/link.h", "core/wire/wire.h", "core/base/log.h",
  "core/telemetry/decisions.h", "core/telemetry/metrics.h")
local http = require "spec.support.http"
local played = require "spec.support.played"
jit.off() -- C calls back into this file

local MIB = 1024 * 1024
local declared, problems
local events = ffi.new("struct mp_models_events", { declared = function() declared = declared + 1 end, changed = function() end })
local on_checked = ffi.cast("void (*)(void *, const struct mp_problems *)", function(_, p)
  problems = {}
  for i = 1, p.n do
    problems[i] = ffi.string(p.list[i - 1].message)
  end
end)

describe("models at an engine", function()
  local e, loop, pool, models, engine, err, keep, failed

  local function turn()
    C.mp_evloop_turn(loop, false)
    e:turn()
  end

  local function until_true(what, f)
    local deadline = http.now() + 10
    repeat
      turn()
      local result = f()
      if result then
        return result
      end
    until http.now() > deadline
    error("timeout: " .. what, 2)
  end

  local function until_said(name, model)
    return until_true("the engine hears no " .. name, function() return e:take(name, model) end)
  end

  local function model(name)
    return C.mp_pool_find(pool, name)
  end

  local function state(name)
    return ffi.string(C.mp_model_state_name(C.mp_pool_model_state(model(name))))
  end

  local function until_state(name, want)
    until_true(name .. " is not " .. want, function() return state(name) == want end)
  end

  --- A configuration of models: { name = { spec = …, settings = { … } } }, or a list of names; of the "cpu" group.
  local function config(list, device)
    local c, n = ffi.new "struct mp_config", #list
    local confs = ffi.new("struct mp_conf_model[?]", n + 1)
    keep[#keep + 1] = { c, confs }
    for i, m in ipairs(list) do
      local conf = confs[i - 1]
      local devices = ffi.new("const char *[1]", { m.device or "cpu" })
      keep[#keep + 1] = devices
      C.mp_pool_settings_init(conf.settings)
      conf.settings.scaledown_window = 0.02
      conf.name, conf.devices, conf.n_devices, conf.spec_json, conf.where = m.name, devices, 1, m.spec or "{}", m.where or "conf/moonpool.lua:7"
      conf.path = m.path
      for key, value in pairs(m.settings or {}) do
        conf.settings[key] = value
      end
    end
    c.models, c.n_models = confs, n
    if device then
      local d = ffi.new("struct mp_conf_device[1]")
      keep[#keep + 1] = d
      d[0].name, d[0].memory, d[0].max_wait, d[0].min_residency = "cpu", device.memory, 10, 5
      c.devices, c.n_devices = d, 1
    end
    return c
  end

  local function declare(list, device)
    local c = config(list, device)
    assert(C.mp_models_declare(models, c, err) == 0, ffi.string(err.message))
    return c
  end

  local function ready()
    return C.mp_models_ready(models, failed)
  end

  --- Answers as an engine does whose models need so many MiB: cold when declared, loading and warm when asked.
  local function well_behaved(need, states)
    states = states or {}
    local function say(wire, id, name)
      e:state(wire, id, states[name] or "COLD", { name = name, need = need * MIB, identity = 1 })
    end
    e.answer.MODEL_DECLARE = function(_, s) say(s.wire, s.id, s.model) end
    e.answer.MODEL_CHECK = function(_, s) e:state(s.wire, s.id, "COLD", { name = s.model, need = need * MIB }) end
    e.answer.MODEL_LOAD = function(_, s)
      states[s.model] = "LOADING"
      say(s.wire, s.id, s.model)
      states[s.model] = "WARM"
      say(s.wire, 0, s.model)
    end
    e.answer.MODEL_UNLOAD = function(_, s)
      states[s.model] = "DRAINING"
      say(s.wire, s.id, s.model)
      states[s.model] = "COLD"
      say(s.wire, 0, s.model)
    end
    return states
  end

  local function wanted()
    local s = ffi.new "struct mp_engine_status"
    C.mp_engine_status(engine, s)
    return s.wanted
  end

  before_each(function()
    C.mp_log_level(C.MP_LOG_ERROR)
    err, keep, declared, problems, failed = ffi.new "struct mp_err", {}, 0, nil, ffi.new "struct mp_pool_model *[1]"
    e = played.engine()
    loop, pool = C.mp_evloop_new(), C.mp_pool_new()
    models = C.mp_models_new(loop, pool, events, nil)
    engine = C.mp_models_add_engine(models, "cpu", e.path)
  end)

  after_each(function()
    C.mp_models_free(models)
    e:free()
    C.mp_evloop_free(loop)
    C.mp_pool_free(pool)
    C.mp_log_level(C.MP_LOG_INFO)
  end)

  it("are looked at once, and then no engine is wanted", function()
    well_behaved(100)
    assert.is_false(wanted())
    declare { { name = "a" }, { name = "b" } }
    assert.is_true(wanted())
    assert.is_false(ready())
    until_true("ready", ready)
    assert.same({ 1, "cold", "cold" }, { declared, state "a", state "b" })
    assert.is_false(wanted())
    e:bye "idle"
    for _ = 1, 20 do
      turn()
    end
    assert.same({ 1, "cold", true }, { e.connections, state "a", ready() })
    local s = ffi.new "struct mp_pool_status"
    C.mp_pool_model_status(model "a", s)
    assert.equal(100 * MIB, tonumber(s.need))
    C.mp_engine_waiting(engine, 1) -- a call that waits to be prepared
    until_true("it comes back", function() return e.connections == 2 and declared == 2 end)
    C.mp_engine_waiting(engine, -1)
    until_true("not wanted", function() return not wanted() end)
  end)

  it("load when they are wanted, stay for their window, and go", function()
    well_behaved(100)
    declare { { name = "a" } }
    until_true("ready", ready)
    assert.equal(0, C.mp_keeper_load(C.mp_models_keeper(models), model "a", err))
    C.mp_models_turn(models)
    until_said("MODEL_LOAD", "a")
    until_state("a", "warm")
    assert.is_true(wanted())
    until_said("MODEL_UNLOAD", "a")
    until_state("a", "cold")
    until_true("not wanted", function() return not wanted() end)
  end)

  it("load at an engine that is only just coming", function()
    well_behaved(100)
    declare { { name = "a" } }
    until_true("ready", ready)
    e:bye "idle"
    turn()
    assert.equal(0, C.mp_keeper_load(C.mp_models_keeper(models), model "a", err))
    C.mp_models_turn(models)
    until_state("a", "loading")
    until_said("MODEL_LOAD", "a")
    until_state("a", "warm")
  end)

  it("ask the next engine when the present one said BYE while the order was on its way", function()
    well_behaved(100)
    e.answer.MODEL_LOAD = nil
    declare { { name = "a", settings = { min_replicas = 1 } } }
    until_said("MODEL_LOAD", "a")
    well_behaved(100)
    e:bye "idle"
    until_said("MODEL_LOAD", "a")
    until_state("a", "warm")
    assert.is_true(ready())
  end)

  it("fail when their engine dies in mid-load, and are cold when it dies later", function()
    well_behaved(100)
    e.answer.MODEL_LOAD = nil
    declare { { name = "a", settings = { min_replicas = 1 } } }
    local m = until_said("MODEL_LOAD", "a")
    e:state(m.wire, m.id, "LOADING", { name = "a" })
    turn()
    e:die()
    until_state("a", "failed")
    assert.is_true(not ready() and failed[0] ~= nil)
    local s = ffi.new "struct mp_pool_status"
    C.mp_pool_model_status(model "a", s)
    assert.equal("the engine was killed while it loaded the model", ffi.string(s.reason))
    well_behaved(100)
    until_state("a", "warm") -- after the backoff
    e:die()
    until_true("not warm", function() return state "a" ~= "warm" end)
    until_state("a", "warm")
  end)

  it("found loaded are adopted", function()
    well_behaved(100, { a = "WARM" })
    declare { { name = "a", settings = { min_replicas = 1 } } }
    until_state("a", "warm")
    assert.is_nil(e:take "MODEL_LOAD")
    assert.is_true(ready())
  end)

  it("do not take what was said before an order for its outcome", function()
    well_behaved(100)
    e.answer.MODEL_LOAD = nil
    declare { { name = "a", settings = { min_replicas = 1 } } }
    local m = until_said("MODEL_LOAD", "a")
    e:state(m.wire, 0, "FAILED", { name = "a", error = -1, reason = "an older failure" })
    for _ = 1, 10 do
      turn()
    end
    assert.equal("loading", state "a")
    e:state(m.wire, m.id, "COLD", { name = "a" }) -- it opens the file first
    e:state(m.wire, 0, "COLD", { name = "a" })
    e:state(m.wire, 0, "LOADING", { name = "a" })
    e:state(m.wire, 0, "FAILED", { name = "a", error = -2, reason = "out of memory" })
    until_state("a", "failed")
  end)

  it("that no configuration names are forgotten once they are gone, and may come back", function()
    well_behaved(100)
    declare { { name = "a", settings = { min_replicas = 1 } }, { name = "b" } }
    until_state("a", "warm")
    declare { { name = "b" } }
    until_said("MODEL_UNLOAD", "a")
    until_said("MODEL_FORGET", "a")
    assert.is_true(ready())
    declare { { name = "a", settings = { min_replicas = 1 } }, { name = "b" } }
    until_said("MODEL_LOAD", "a")
    until_state("a", "warm")
  end)

  it("are declared again only when their spec or their file changed", function()
    local path = e.dir .. "/weights"
    local function write(what)
      local f = assert(io.open(path, "w"))
      f:write(what)
      f:close()
    end
    write "one"
    well_behaved(100)
    local list = { { name = "a", path = path } }
    declare(list)
    until_true("ready", ready)
    until_said("MODEL_DECLARE", "a")
    declare(list)
    for _ = 1, 10 do
      turn()
    end
    assert.is_nil(e:take "MODEL_DECLARE")
    write "another"
    declare(list)
    until_said("MODEL_DECLARE", "a")
    list[1].spec = '{"context":7}'
    declare(list)
    assert.equal('{"context":7}', until_said("MODEL_DECLARE", "a").spec)
  end)

  it("leave room: the engine hears the device's limit, as declared or four fifths of the machine", function()
    well_behaved(100)
    declare({ { name = "a" } }, { memory = 300 * MIB })
    assert.equal(300 * MIB, until_said("DEVICE_LIMIT").memory)
    declare({ { name = "a" } }, { memory = 200 * MIB })
    assert.equal(200 * MIB, until_said("DEVICE_LIMIT").memory)
    local room = ffi.new "struct mp_device_room"
    assert.is_true(C.mp_keeper_room(C.mp_models_keeper(models), 0, room))
    assert.same({ "cpu", 200 * MIB }, { ffi.string(room.group), tonumber(room.memory) })
    declare { { name = "a" } }
    local memory = until_true("a limit", function()
      local m = e:take "DEVICE_LIMIT"
      return m and m.memory ~= 200 * MIB and m.memory
    end)
    assert.is_true(memory > 100 * MIB)
  end)

  describe("checked before they count", function()
    local function check(list, device)
      problems = nil
      assert.equal(0, C.mp_models_check(models, config(list, device), on_checked, nil))
      assert.is_nil(problems)
      until_true("checked", function() return problems end)
      return problems
    end

    it("are opened by the engine when they are new or changed, and only then", function()
      well_behaved(100)
      declare { { name = "a" } }
      until_true("ready", ready)
      assert.same({}, check { { name = "a" } })
      assert.is_nil(e:take "MODEL_CHECK")
      assert.same({}, check { { name = "a" }, { name = "b", spec = '{"x":1}' } })
      assert.equal('{"x":1}', until_said("MODEL_CHECK", "b").spec)
      assert.is_nil(e:take "MODEL_CHECK")
    end)

    it("bring an engine that is not there, and survive its BYE", function()
      well_behaved(100)
      declare { { name = "a" } }
      until_true("ready", ready)
      e:bye "idle"
      turn()
      e.answer.MODEL_CHECK = nil
      problems = nil
      assert.equal(0, C.mp_models_check(models, config { { name = "b" } }, on_checked, nil))
      until_said("MODEL_CHECK", "b")
      e:bye "idle"
      well_behaved(100)
      until_true("checked", function() return problems end)
      assert.same({}, problems)
    end)

    it("say everything that is wrong, with its place", function()
      well_behaved(100)
      declare { { name = "a" } }
      until_true("ready", ready)
      e.answer.MODEL_CHECK = function(_, s)
        if s.model == "broken" then
          e:state(s.wire, s.id, "FAILED", { name = s.model, error = -5, reason = "it is no GGUF file" })
        elseif s.model == "refused" then
          e:send(s.wire, "ERROR", s.id, function(m)
            m.u.error.code.p, m.u.error.code.n, m.u.error.message.p, m.u.error.message.n = "unsupported", 11, "kv_type: not built", 18
          end)
        else
          e:state(s.wire, s.id, "COLD", { name = s.model, need = 400 * MIB })
        end
      end
      assert.same({
        'conf/moonpool.lua:3: mp.model "broken": it is no GGUF file',
        'conf/moonpool.lua:4: mp.model "refused": kv_type: not built',
        'conf/moonpool.lua:5: mp.model "big": needs 400 MiB, device "cpu" has 300 MiB',
        'conf/moonpool.lua:6: mp.model "nowhere": none of its devices (tpu) is here; this server has: cpu',
      }, check({ { name = "a" }, { name = "broken", where = "conf/moonpool.lua:3" }, { name = "refused", where = "conf/moonpool.lua:4" },
        { name = "big", where = "conf/moonpool.lua:5" }, { name = "nowhere", device = "tpu", where = "conf/moonpool.lua:6" } }, { memory = 300 * MIB }))
    end)

    it("must fit together where they are kept warm", function()
      well_behaved(100)
      local one = { min_replicas = 1 }
      assert.same({}, check({ { name = "a", settings = one }, { name = "b", settings = one } }, { memory = 200 * MIB }))
      assert.same({ 'conf/moonpool.lua:7: mp.model "c": the models that are kept warm (min_replicas) need 300 MiB together, device "cpu" has 250 MiB' },
        check({ { name = "a", settings = one }, { name = "b", settings = one }, { name = "c", settings = one } }, { memory = 250 * MIB }))
    end)

    it("are judged by the memory that will be, not by the engine's present limit", function()
      e.answer.MODEL_CHECK = function(_, s)
        e:state(s.wire, s.id, "FAILED", { name = s.model, error = -2, reason = "needs 400 MiB", need = 400 * MIB })
      end
      assert.same({}, check({ { name = "big" } }, { memory = 500 * MIB }))
      assert.equal(1, #check({ { name = "big" } }, { memory = 300 * MIB }))
    end)

    it("end with a problem when their engine dies of it", function()
      problems = nil
      assert.equal(0, C.mp_models_check(models, config { { name = "b" } }, on_checked, nil))
      until_said("MODEL_CHECK", "b")
      e:die()
      until_true("checked", function() return problems end)
      assert.same({ 'conf/moonpool.lua:7: mp.model "b": the engine died while it looked at its file' }, problems)
    end)
  end)

  it("are logged, counted and recorded as they change", function()
    well_behaved(100)
    local from = tonumber(C.mp_decisions_print(0, 0, ffi.new "struct mp_buf"))
    declare { { name = "told", settings = { min_replicas = 1 } } }
    until_state("told", "warm")
    local b = ffi.new "struct mp_buf"
    C.mp_decisions_print(from, 100, b)
    local text = ffi.string(C.mp_buf_cstr(b))
    assert.matches('"model":"told","decision":"cold %-> loading","reason":"start: min_replicas"', (text:gsub('": "', '":"'):gsub(', "', ',"')))
    assert.matches('"decision":"loading %-> warm","reason":"loaded"', (text:gsub('": "', '":"'):gsub(', "', ',"')))
    b.len = 0
    C.mp_metrics_print(b)
    text = ffi.string(C.mp_buf_cstr(b))
    assert.matches('moonpool_model_loads_total{model="told",result="ok"} 1\n', text)
    assert.matches('moonpool_engine_starts_total{device="cpu"} %d+\n', text)
    C.mp_buf_free(b)
  end)
end)
