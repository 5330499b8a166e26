--- core/pool/call.h: a call's life at a provider that the spec plays; whoever ends it, it ends exactly once.
local C, ffi = require "spec.support.ffi"("core/pool/provider.h")
jit.off() -- C calls back into this file

local asked, seen, on_event -- what the provider was asked; which events came; what to do in one

local function note(name)
  return function(_, ...)
    seen[#seen + 1] = name
    if on_event[name] then
      on_event[name](...)
    end
  end
end

local ops = ffi.new("struct mp_provider_ops", {
  send = function(_, _, err)
    asked[#asked + 1] = "send"
    return asked.refuse and C.mp_err_set(err, C.MP_EBUSY, "full") or 0
  end,
  go = function() asked[#asked + 1] = "go" end,
  cancel = function() asked[#asked + 1] = "cancel" end,
  window = function(_, _, n) asked[#asked + 1] = "window " .. tonumber(n) end,
})
local events = ffi.new("struct mp_call_events", {
  prepared = note "prepared",
  text = note "text",
  done = note "done",
  failed = note "failed",
})

describe("a call", function()
  local pool, port, model, call, err

  local function new(change)
    local args = ffi.new("struct mp_call_args", { model = model, kind = C.MP_PREPARE_TEXT, payload = ffi.cast("const char *", "hello"), n = 5,
      events = events })
    C.mp_msg_start_init(args.start)
    if change then
      change(args)
    end
    return C.mp_call_new(port, args, err)
  end

  local function counts()
    local s = ffi.new "struct mp_pool_status"
    C.mp_pool_model_status(model, s)
    return { s.waiting, s.in_flight, tonumber(s.calls) }
  end

  before_each(function()
    asked, seen, on_event, err = {}, {}, {}, ffi.new "struct mp_err"
    pool = C.mp_pool_new()
    C.mp_pool_provide(pool, "cpu", ops, nil)
    port = C.mp_pool_port_new(pool, nil, nil)
    C.mp_pool_port_bind(port, 0, ffi.cast("void *", 1))
    local out = ffi.new "struct mp_pool_model *[1]"
    assert.equal(0, C.mp_pool_declare(pool, "m", ffi.new("const char *[2]", "cuda", "cpu"), 2, out, err))
    model = out[0]
  end)
  after_each(function()
    C.mp_call_free(call)
    call = nil
    local c = counts()
    assert.same({ 0, 0 }, { c[1], c[2] })
    C.mp_pool_port_free(port)
    C.mp_pool_free(pool)
  end)

  local usage = ffi.new "struct mp_usage"

  it("fails, and never starts, when it must make more tokens than the context leaves; else they are cut", function()
    call = new(function(args) args.exact, args.start.max_tokens = true, 101 end)
    on_event.failed = function(e)
      assert.equal("'max_tokens' is 101, but the prompt of 5 tokens leaves room for 100 in the context", ffi.string(e.message))
    end
    C.mp_call_on_prepared(call, 5, 100)
    assert.same({ "send", "cancel" }, asked)
    assert.same({ "failed" }, seen)
    C.mp_call_free(call)
    asked, seen = {}, {}
    call = new(function(args) args.start.max_tokens = 101 end)
    C.mp_call_on_prepared(call, 5, 100)
    assert.same({ "send", "go" }, asked)
  end)

  it("goes from sent to prepared to started to done", function()
    call = new()
    assert.same({ 1, 0, 1 }, counts())
    C.mp_call_on_prepared(call, 5, 100)
    assert.same({ "send", "go" }, asked)
    assert.same({ 0, 1, 1 }, counts())
    assert.is_true(C.mp_call_on_text(call, "hi", 2, usage))
    C.mp_call_consumed(call, 2)
    C.mp_call_on_done(call, C.MP_MSG_FINISH_STOP, usage)
    assert.same({ "prepared", "text", "done" }, seen)
    assert.same({ "send", "go", "window 2" }, asked)
    assert.is_true(C.mp_call_ended(call))
    assert.same({ 0, 0, 1 }, counts())
  end)

  it("hears nothing after its end, and asks nothing", function()
    call = new()
    C.mp_call_on_prepared(call, 5, 100)
    C.mp_call_on_done(call, C.MP_MSG_FINISH_STOP, usage)
    C.mp_call_on_done(call, C.MP_MSG_FINISH_STOP, usage)
    C.mp_call_on_failed(call, err, 0)
    assert.is_false(C.mp_call_on_text(call, "hi", 2, usage))
    C.mp_call_on_prepared(call, 5, 100)
    C.mp_call_start(call)
    C.mp_call_consumed(call, 7)
    C.mp_call_cancel(call)
    assert.same({ "prepared", "done" }, seen)
    assert.same({ "send", "go" }, asked)
  end)

  it("that is cancelled tells its provider, and nobody else", function()
    call = new()
    C.mp_call_cancel(call)
    C.mp_call_cancel(call)
    C.mp_call_on_prepared(call, 5, 100)
    assert.same({ "send", "cancel" }, asked)
    assert.same({}, seen)
  end)

  it("that is held starts when it is told to", function()
    call = new(function(a) a.hold = true end)
    C.mp_call_on_prepared(call, 5, 100)
    assert.same({ "send" }, asked)
    C.mp_call_start(call)
    assert.same({ "send", "go" }, asked)
    C.mp_call_start(call)
    assert.same({ "send", "go" }, asked)
  end)

  it("that is told to start before it is prepared starts then", function()
    call = new(function(a) a.hold = true end)
    C.mp_call_start(call)
    assert.same({ "send" }, asked)
    C.mp_call_on_prepared(call, 5, 100)
    assert.same({ "send", "go" }, asked)
  end)

  it("may be cancelled in `prepared`: it does not start", function()
    call = new()
    on_event.prepared = function() C.mp_call_cancel(call) end
    C.mp_call_on_prepared(call, 5, 100)
    assert.same({ "send", "cancel" }, asked)
  end)

  it("may be freed in any of its events", function()
    for _, event in ipairs { "prepared", "text", "done", "failed" } do
      call = new()
      local mine = call
      on_event = { [event] = function()
        C.mp_call_free(mine)
        call = nil
      end }
      C.mp_call_on_prepared(mine, 5, 100)
      if event == "text" then
        assert.is_false(C.mp_call_on_text(mine, "hi", 2, usage))
      elseif event == "done" then
        C.mp_call_on_done(mine, C.MP_MSG_FINISH_LENGTH, usage)
      elseif event == "failed" then
        C.mp_call_on_failed(mine, err, 0)
      end
      assert.is_nil(call)
    end
  end)

  it("keeps its payload and stop strings", function()
    local stops = { "END", "###" }
    call = new(function(a)
      a.start.n_stops = 2
      for i, s in ipairs(stops) do
        a.start.stops[i - 1].p, a.start.stops[i - 1].n = s, #s
      end
    end)
    local args = C.mp_call_args(call)
    assert.equal("hello", ffi.string(args.payload, args.n))
    for i, s in ipairs(stops) do
      assert.equal(s, ffi.string(args.start.stops[i - 1].p, args.start.stops[i - 1].n))
    end
  end)

  it("is refused with the field's name when a setting is out of range", function()
    assert.is_true(new(function(a) a.start.top_p = 3 end) == nil)
    assert.matches("top_p", ffi.string(err.message))
    assert.same({}, asked)
  end)

  it("is refused as its provider says, and counts for nothing", function()
    asked.refuse = true
    assert.is_true(new() == nil)
    assert.equal("full", ffi.string(err.message))
    assert.same({ 0, 0, 0 }, counts())
  end)

  it("is refused on a worker without a way to the engine", function()
    C.mp_pool_port_bind(port, 0, nil)
    assert.is_true(new() == nil)
    assert.equal("model 'm': this worker has no way to its engine", ffi.string(err.message))
  end)
end)

describe("the pool", function()
  it("says which devices were looked for when none is here", function()
    local pool, err = C.mp_pool_new(), ffi.new "struct mp_err"
    C.mp_pool_provide(pool, "cpu", ops, nil)
    local out = ffi.new "struct mp_pool_model *[1]"
    assert.equal(C.MP_EUNAVAILABLE, C.mp_pool_declare(pool, "m", ffi.new("const char *[2]", "cuda", "npu"), 2, out, err))
    assert.equal("model 'm': none of its devices (cuda, npu) is here; this server has: cpu", ffi.string(err.message))
    C.mp_pool_free(pool)
  end)

  it("keeps what the engine said last, and forgets it when the engine is lost", function()
    local pool, err = C.mp_pool_new(), ffi.new "struct mp_err"
    C.mp_pool_provide(pool, "cpu", ops, nil)
    local out = ffi.new "struct mp_pool_model *[1]"
    C.mp_pool_declare(pool, "m", ffi.new("const char *[1]", { "cpu" }), 1, out, err)
    local m, s = out[0], ffi.new "struct mp_pool_status"
    local said = ffi.new("struct mp_msg_model_state", { state = C.MP_MODEL_WARM, loads = 2, running = 3, waiting = 4, context = 2048 })
    said.device.p, said.device.n = "cpu: 2 threads", 14
    C.mp_pool_model_report(m, said, 77)
    C.mp_pool_model_status(m, s)
    assert.same({ C.MP_MODEL_WARM, 2, 3, 4, 2048, 77, "cpu: 2 threads" },
      { tonumber(s.state), s.loads, s.running, s.queued, s.context, s.engine, ffi.string(s.device) })
    C.mp_pool_model_lost(m)
    C.mp_pool_model_status(m, s)
    assert.same({ C.MP_MODEL_DECLARED, true, 0, 0, 0 }, { tonumber(s.state), s.lost, s.loads, s.running, s.engine })
    assert.is_true(C.mp_pool_find(pool, "m") == m and C.mp_pool_find(pool, "x") == nil)
    assert.is_true(C.mp_pool_at(pool, 0) == m and C.mp_pool_at(pool, 1) == nil)
    C.mp_pool_free(pool)
  end)
end)
