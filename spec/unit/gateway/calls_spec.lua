--- core/gateway/calls.h, models.h, link.h: calls at an engine that the spec plays at the other end of a real socket: what goes over the
--- wire, what an engine's death does, what comes too late.
local C, ffi = require "spec.support.ffi"("core/gateway/calls.h", "core/wire/wire.h", "core/base/log.h")
local http = require "spec.support.http"
jit.off() -- C calls back into this file
ffi.cdef "char *mkdtemp(char *template); int close(int fd);"

local TYPES = {}
for _, name in ipairs { "MODEL_DECLARE", "MODEL_LOAD", "MODELS", "PREPARE", "START", "CANCEL", "WINDOW" } do
  TYPES[tonumber(C["MP_MSG_" .. name])] = name
end

local seen -- events of calls, in order
local events = ffi.new("struct mp_call_events", {
  prepared = function(user, n) seen[#seen + 1] = ("prepared %d %d"):format(tonumber(ffi.cast("intptr_t", user)), n) end,
  text = function(user, s, n) seen[#seen + 1] = ("text %d %s"):format(tonumber(ffi.cast("intptr_t", user)), ffi.string(s, n)) end,
  done = function(user, finish, usage)
    seen[#seen + 1] = ("done %d %s %d+%d"):format(tonumber(ffi.cast("intptr_t", user)), ffi.string(C.mp_msg_finish_name(finish)),
      usage.prompt_tokens, usage.completion_tokens)
  end,
  failed = function(user, err)
    seen[#seen + 1] = ("failed %d %s: %s"):format(tonumber(ffi.cast("intptr_t", user)), ffi.string(C.mp_err_name(err.code)),
      ffi.string(err.message))
  end,
})

-- What the control thread does when the engine knows its models: it tells the workers.
local calls
local models_events = ffi.new("struct mp_models_events", {
  declared = function()
    if calls then
      C.mp_calls_declared(calls)
    end
  end,
  changed = function() end,
})

describe("calls at an engine", function()
  local dir, path, listener, loop, pool, models, port, model, config, conf, keep, err
  local lines, said -- the engine's connections; what came over them: { type, wire, id, m }

  local function accept()
    local fd = ffi.new "int[1]"
    while C.mp_wire_accept(listener, fd, err) == 0 do
      lines[#lines + 1] = C.mp_wire_new(fd[0], C.MP_PEER_ENGINE)
    end
  end

  local function send(wire, m)
    assert.equal(0, C.mp_wire_send(wire, m, err))
    assert.equal(0, C.mp_wire_writable(wire, err))
  end

  local function message(type, id)
    local m = ffi.new "struct mp_msg"
    m.type, m.id = C["MP_MSG_" .. type], id
    return m
  end

  local function state(id, what)
    local m = message("MODEL_STATE", id)
    m.u.model_state.name.p, m.u.model_state.name.n = "m", 1
    m.u.model_state.state = C["MP_MODEL_" .. what]
    return m
  end

  --- One turn of both sides. Declarations and loads are answered; the rest is noted in `said`.
  local function turn()
    C.mp_evloop_turn(loop, false)
    C.mp_pool_port_run(port, C.mp_pool_now(pool))
    if listener then
      accept()
    end
    for _, wire in pairs(lines) do
      C.mp_wire_readable(wire, err)
      local m = ffi.new "struct mp_msg"
      while C.mp_wire_next(wire, m, err) == 1 do
        local name = TYPES[m.type]
        if name == "MODEL_DECLARE" then
          send(wire, state(m.id, "COLD"))
        elseif name == "MODEL_LOAD" then
          send(wire, state(m.id, "WARM"))
        end
        if name == "MODELS" then
          send(wire, message("MODELS_END", m.id))
        else
          said[#said + 1] = { name = name, wire = wire, id = m.id, payload = name == "PREPARE" and ffi.string(m.u.prepare.payload.p, m.u.prepare.payload.n),
            bytes = name == "WINDOW" and m.u.window.bytes, max_tokens = name == "START" and m.u.start.max_tokens }
        end
      end
      C.mp_wire_writable(wire, err)
    end
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
    error("timeout: " .. what .. "; events: " .. table.concat(seen, ", "), 2)
  end

  --- Waits for the next message of that name; takes it off the list.
  local function until_said(name)
    return until_true("the engine hears no " .. name, function()
      for i, m in ipairs(said) do
        if m.name == name then
          return table.remove(said, i)
        end
      end
    end)
  end

  local function until_seen(...)
    local want = { ... }
    until_true("no " .. table.concat(want, ", "), function() return #seen >= #want end)
    assert.same(want, seen)
  end

  local function until_state(name)
    until_true("the model is not " .. name, function() return C.mp_pool_model_state(model) == C["MP_MODEL_" .. name] end)
  end

  local function listen()
    local fd = ffi.new "int[1]"
    assert(C.mp_wire_listen(path, 16, fd, err) == 0, ffi.string(err.message))
    listener = fd[0]
  end

  --- The engine's end of every connection is cut, as when its process dies. The listening socket is the supervisor's: it stays.
  local function die()
    for i, wire in pairs(lines) do
      C.mp_wire_free(wire)
      lines[i] = nil
    end
  end

  local function call(number, text, change)
    local args = ffi.new("struct mp_call_args", { model = model, kind = C.MP_PREPARE_TEXT, payload = ffi.cast("const char *", text), n = #text,
      events = events, user = ffi.cast("void *", number) })
    C.mp_msg_start_init(args.start)
    args.start.max_tokens = 7
    if change then
      change(args)
    end
    local c = C.mp_call_new(port, args, err)
    assert(c ~= nil, ffi.string(err.message))
    keep[#keep + 1] = c
    return c
  end

  local function prepared(m, n)
    local r = message("PREPARED", m.id)
    r.u.prepared.n_tokens, r.u.prepared.left = n, 100
    send(m.wire, r)
  end

  local function tokens(m, text, n)
    local r = message("TOKENS", m.id)
    r.u.tokens.text.p, r.u.tokens.text.n, r.u.tokens.completion_tokens = text, #text, n
    send(m.wire, r)
  end

  local function done(m, finish, tail)
    local r = message("DONE", m.id)
    r.u.done.finish, r.u.done.prompt_tokens, r.u.done.completion_tokens = C["MP_MSG_FINISH_" .. finish], 3, 2
    r.u.done.text.p, r.u.done.text.n = tail or "", #(tail or "")
    send(m.wire, r)
  end

  before_each(function()
    C.mp_log_level(C.MP_LOG_ERROR)
    err, seen, said, lines, keep = ffi.new "struct mp_err", {}, {}, {}, {}
    dir = ffi.string(ffi.C.mkdtemp(ffi.new("char[?]", 64, (os.getenv "TMPDIR" or "/tmp") .. "/mp-calls-XXXXXX")))
    path = dir .. "/e"
    listen()
    loop, pool = C.mp_evloop_new(), C.mp_pool_new()
    models = C.mp_models_new(loop, pool, models_events, nil)
    local engine = C.mp_models_add_engine(models, "cpu", path)
    config, conf = ffi.new "struct mp_config", ffi.new "struct mp_conf_model[1]"
    keep.devices = ffi.new("const char *[1]", { "cpu" })
    C.mp_pool_settings_init(conf[0].settings)
    conf[0].name, conf[0].devices, conf[0].n_devices, conf[0].spec_json = "m", keep.devices, 1, "{}"
    config.models, config.n_models = conf, 1
    assert.equal(0, C.mp_models_declare(models, config, err))
    model = C.mp_pool_find(pool, "m")
    port = C.mp_pool_port_new(pool, nil, nil)
    calls = C.mp_calls_new(loop, engine)
    C.mp_pool_port_bind(port, 0, calls)
  end)

  after_each(function()
    for _, c in ipairs(keep) do
      C.mp_call_free(c)
    end
    C.mp_calls_free(calls)
    calls = nil
    C.mp_models_free(models)
    die()
    C.mp_evloop_free(loop)
    local s = ffi.new "struct mp_pool_status"
    C.mp_pool_model_status(model, s)
    C.mp_pool_port_free(port)
    C.mp_pool_free(pool)
    ffi.C.close(listener)
    os.execute("rm -rf " .. dir)
    assert.same({ 0, 0 }, { s.waiting, s.in_flight })
    C.mp_log_level(C.MP_LOG_INFO)
  end)

  it("wait until the engine knows its models, then go from PREPARE to DONE", function()
    call(1, "hello")
    local p = until_said "PREPARE"
    assert.equal("hello", p.payload)
    prepared(p, 3)
    assert.equal(7, until_said("START").max_tokens)
    tokens(p, "wa", 1)
    done(p, "STOP", "ves")
    until_seen("prepared 1 3", "text 1 wa", "text 1 ves", "done 1 stop 3+2")
  end)

  it("share one connection, each with its own id", function()
    call(1, "one")
    call(2, "two")
    local a, b = until_said "PREPARE", until_said "PREPARE"
    assert.is_true(a.wire == b.wire and a.id ~= b.id)
    prepared(b, 2)
    prepared(a, 1)
    until_said "START"
    until_said "START"
    tokens(a, "A", 1)
    tokens(b, "B", 1)
    done(b, "LENGTH")
    done(a, "STOP")
    until_seen("prepared 2 2", "prepared 1 1", "text 1 A", "text 2 B", "done 2 length 3+2", "done 1 stop 3+2")
  end)

  it("give room for more as text is taken", function()
    local c = call(1, "x")
    local p = until_said "PREPARE"
    prepared(p, 1)
    until_said "START"
    C.mp_call_consumed(c, 4096)
    assert.equal(4096, until_said("WINDOW").bytes)
  end)

  it("are cancelled over the wire, and what still comes for them is dropped", function()
    local c = call(1, "x")
    local p = until_said "PREPARE"
    prepared(p, 1)
    until_said "START"
    C.mp_call_cancel(c)
    assert.equal(p.id, until_said("CANCEL").id)
    tokens(p, "late", 1)
    done(p, "CANCELLED")
    local again = call(2, "y")
    local q = until_said "PREPARE"
    assert.is_true(q.id ~= p.id)
    done(p, "STOP")
    prepared(q, 1)
    until_said "START"
    until_seen("prepared 1 1", "prepared 2 1")
    assert.is_false(C.mp_call_ended(again))
  end)

  it("fail with the engine's own words", function()
    call(1, "x")
    local p = until_said "PREPARE"
    local r = message("ERROR", p.id)
    r.u.error.code.p, r.u.error.code.n = "context_length_exceeded", 23
    r.u.error.message.p, r.u.error.message.n = "too long", 8
    send(p.wire, r)
    until_seen "failed 1 context_length_exceeded: too long"
  end)

  it("that had started fail when the engine dies; those that had not are sent again to the next", function()
    call(1, "running")
    local p = until_said "PREPARE"
    prepared(p, 3)
    until_said "START"
    call(2, "held", function(a) a.hold = true end)
    prepared(until_said "PREPARE", 4)
    until_seen("prepared 1 3", "prepared 2 4")
    call(3, "sent")
    until_said "PREPARE"
    die()
    until_seen("prepared 1 3", "prepared 2 4",
      "failed 1 engine_lost: the engine of model 'm' ended while it worked on this request; it is restarted")
    C.mp_call_start(keep[2])
    local a, b = until_said "PREPARE", until_said "PREPARE"
    if a.payload ~= "held" then
      a, b = b, a
    end
    assert.same({ "held", "sent" }, { a.payload, b.payload })
    assert.equal(a.id, until_said("START").id) -- right behind its PREPARE
    prepared(a, 4)
    prepared(b, 5)
    until_said "START"
    done(b, "STOP")
    done(a, "STOP")
    until_true("both end", function() return #seen == 6 end)
    assert.same({ "prepared 3 5", "done 3 stop 3+2", "done 2 stop 3+2" }, { seen[4], seen[5], seen[6] })
  end)

  local function gone()
    ffi.C.close(listener)
    os.remove(path)
    listener = nil
  end

  it("fail when no engine comes within the model's startup_timeout", function()
    conf[0].settings.startup_timeout = 0.05
    assert.equal(0, C.mp_models_declare(models, config, err))
    local failed = ffi.new "struct mp_pool_model *[1]"
    until_true("ready", function() return C.mp_models_ready(models, failed) end)
    gone()
    die()
    call(1, "x")
    until_seen "failed 1 unavailable: model 'm' cannot be loaded: it was not loaded within its startup_timeout of 0.05 seconds"
    conf[0].settings.startup_timeout = 60
    assert.equal(0, C.mp_models_declare(models, config, err)) -- told anew: tried again at once
    listen()
    call(2, "y")
    assert.equal("y", until_said("PREPARE").payload)
  end)

  it("that have a place wait a while for the engine, then fail", function()
    C.mp_calls_patience(calls, 50)
    local c = call(1, "x", function(a) a.hold = true end)
    local p = until_said "PREPARE"
    prepared(p, 1)
    until_state "WARM"
    until_seen "prepared 1 1"
    gone() -- for this worker alone
    for i, wire in pairs(lines) do
      if wire == p.wire then
        C.mp_wire_free(wire)
        lines[i] = nil
      end
    end
    for _ = 1, 10 do
      turn()
    end
    C.mp_call_start(c)
    until_seen("prepared 1 1", "failed 1 unavailable: no engine for model 'm' came within 0.05 seconds")
    listen()
  end)

  it("end when the engine speaks nonsense, and start anew on a new connection", function()
    call(1, "x")
    local p = until_said "PREPARE"
    prepared(p, 1)
    until_said "START"
    C.mp_log_level(4)
    C.mp_wire_send_frames(p.wire, "\255\255\255\255 nonsense", 13)
    C.mp_wire_writable(p.wire, err)
    until_true("it fails", function() return #seen == 2 end)
    assert.matches("^failed 1 engine_lost", seen[2])
    call(2, "y")
    assert.equal("y", until_said("PREPARE").payload)
  end)

  it("find a model loaded again that was warm when its engine died", function()
    conf[0].settings.min_replicas = 1
    assert.equal(0, C.mp_models_declare(models, config, err))
    local failed = ffi.new "struct mp_pool_model *[1]"
    until_true("ready", function() return C.mp_models_ready(models, failed) end)
    until_said "MODEL_LOAD"
    die()
    until_true("not ready", function() return not C.mp_models_ready(models, failed) end)
    until_said "MODEL_LOAD"
    until_true("ready again", function() return C.mp_models_ready(models, failed) end)
    assert.is_true(failed[0] == nil)
  end)
end)
