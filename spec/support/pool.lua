--- spec/support/pool.lua: a pool, its keeper, and a device that the spec plays, all in virtual time. Nothing waits: `house:run(seconds)` steps
--- from one thing that happens to the next.
---
---   local house = pool.house { memory = 100, max_wait = 6, min_residency = 2, models = { a = { need = 60, load = 1.5 } } }
---   local call = house:call("a", { service = 0.1 })
---   house:run(3)       -> call.state: "waiting", "running", "done", "failed", "cancelled"; call.error, call.retry, call.started, call.ended
---   house.moves        every transition: "a: cold -> loading (demand)"
local C, ffi = require "spec.support.ffi"("core/pool/keeper.h", "core/pool/provider.h", "core/base/log.h")
jit.off() -- C calls back into this file

local M = { C = C, ffi = ffi }
local SECOND = 1e9

local function ns(seconds)
  return math.floor(seconds * SECOND + 0.5)
end

local here -- the house that C calls back into: one at a time

local STATES = { [0] = "declared", "cold", "loading", "warm", "draining", "failed" }
local STATE = {}
for i, name in pairs(STATES) do
  STATE[name] = i
end

local House = {}
House.__index = House

local function name_of(m)
  return ffi.string(C.mp_pool_model_name(m))
end

-- The callbacks exist once: LuaJIT has few of them.

local provider_ops = ffi.new("struct mp_provider_ops", {
  name = "spec",
  start = function() return 0 end,
  stop = function() return 0 end,
  ready = function() return true end,
  send = function(_, c)
    local call = here.by_id[tonumber(ffi.cast("intptr_t", C.mp_call_args(c).user))]
    call.ptr = c
    if call.prepare ~= "never" then
      here:at(call.prepare or 0, function()
        if call.state == "waiting" then
          call.prepared = here.now
          C.mp_call_on_prepared(c, 5, 100)
        end
      end)
    end
    return 0
  end,
  go = function(_, c)
    local call = here.by_id[tonumber(ffi.cast("intptr_t", C.mp_call_args(c).user))]
    assert(call.state == "waiting", "started twice, or after its end")
    call.state, call.started = "running", here.now
    here.started[#here.started + 1] = call
    local m = call.model
    assert(m.engine.state == "warm" or here.dying, "a START for a model that is not on the device")
    m.running = m.running + 1
    here.check_places(m)
    if call.service ~= "never" then
      here:at(call.service or 0.1, function()
        if call.state == "running" then
          call.usage = ffi.new "struct mp_usage"
          C.mp_call_on_text(c, "x", 1, call.usage)
          C.mp_call_on_done(c, C.MP_MSG_FINISH_STOP, call.usage)
        end
      end)
    end
  end,
  cancel = function() end,
  window = function() end,
})

local function ended(call, state)
  if call.state == "running" then
    call.model.running = call.model.running - 1
  end
  call.state, call.ended = state, here.now
  here:at(0, function()
    C.mp_call_free(call.ptr)
    call.ptr = nil
    here.by_id[call.id] = nil
  end)
end

local call_events = ffi.new("struct mp_call_events", {
  done = function(user, _, usage)
    local call = here.by_id[tonumber(ffi.cast("intptr_t", user))]
    call.queue, call.load = tonumber(usage.queue_ns) / SECOND, tonumber(usage.load_ns) / SECOND
    call.ttft = tonumber(usage.ttft_ns) / SECOND
    ended(call, "done")
  end,
  failed = function(user, err, retry)
    local call = here.by_id[tonumber(ffi.cast("intptr_t", user))]
    call.error, call.code, call.retry = ffi.string(err.message), ffi.string(C.mp_err_name(err.code)), retry
    ended(call, "failed")
  end,
})

local keeper_ops = {
  load = function(_, m, err)
    local model = here.models[name_of(m)]
    local engine = model.engine
    if here.away then
      return C.mp_err_set(err, C.MP_EAGAIN, "no engine")
    end
    assert(engine.state == "cold" or engine.state == "failed", "a load of a model that is " .. engine.state)
    assert(not engine.loading, "two loads at once")
    model.loads = model.loads + 1
    engine.loading, engine.order = true, (engine.order or 0) + 1
    local order = engine.order
    engine.held = model.need
    here.check_memory()
    here:at(0, function()
      if engine.order == order then
        here:say(model, "loading")
      end
    end)
    local fail, seconds = model.fail, model.load
    if type(seconds) == "function" then
      seconds = seconds()
    end
    if type(fail) == "function" then
      fail = fail()
    end
    here:at(seconds, function()
      if engine.order ~= order then
        return
      end
      engine.loading = false
      if fail then
        engine.held = 0
        here:say(model, "failed", fail)
      else
        here:say(model, "warm")
      end
    end)
    return 0
  end,
  unload = function(_, m, err)
    local model = here.models[name_of(m)]
    local engine = model.engine
    if here.away then
      return C.mp_err_set(err, C.MP_EAGAIN, "no engine")
    end
    assert(model.running == 0, "an unload under running requests")
    engine.order = (engine.order or 0) + 1
    local order = engine.order
    here:at(model.unload or 0.01, function()
      if engine.order == order then
        engine.loading, engine.held = false, 0
        here:say(model, "cold")
      end
    end)
    return 0
  end,
  transition = function(_, t)
    local line = ("%s: %s -> %s (%s)"):format(name_of(t.model), STATES[tonumber(t.from)], STATES[tonumber(t.to)],
      ffi.string(C.mp_cause_name(t.cause)))
    local move = { line = line, at = here.now, seconds = t.seconds, reason = ffi.string(t.reason), model = name_of(t.model),
      to = STATES[tonumber(t.to)] }
    here.moves[#here.moves + 1] = line
    here.moved[#here.moved + 1] = move
    here.on_move(move)
  end,
  removed = function(_, m)
    here.gone[#here.gone + 1] = name_of(m)
  end,
}
local with_policy = {
  scale = function(_, f, now, reason, n)
    local want, why = here.scale(f, now)
    ffi.copy(reason, (why or ""):sub(1, tonumber(n) - 1))
    return want
  end,
  evict = function(_, candidates, n, need, _, chosen, reason, reason_n)
    local list = {}
    for i = 0, n - 1 do
      list[i + 1] = candidates[i]
    end
    local picks, why = here.evict(list, tonumber(need))
    if not picks then
      return -1
    end
    ffi.copy(reason, (why or ""):sub(1, tonumber(reason_n) - 1))
    for i, pick in ipairs(picks) do
      if i <= n then
        chosen[i - 1] = pick
      end
    end
    return #picks
  end,
}
for name, f in pairs(keeper_ops) do
  keeper_ops[name] = ffi.cast(({ load = "int (*)(void *, struct mp_pool_model *, struct mp_err *)",
    unload = "int (*)(void *, struct mp_pool_model *, struct mp_err *)", transition = "void (*)(void *, const struct mp_transition *)",
    removed = "void (*)(void *, struct mp_pool_model *)" })[name], f)
end
with_policy.scale = ffi.cast("int (*)(void *, const struct mp_pool_facts *, double, char *, size_t)", with_policy.scale)
with_policy.evict = ffi.cast(
  "int (*)(void *, const struct mp_pool_facts *, uint32_t, uint64_t, double, uint32_t *, char *, size_t)", with_policy.evict)

local demand = ffi.cast("void (*)(void *)", function() here.dirty = true end)
local wake = ffi.cast("void (*)(void *)", function(ctx) here.woken[tonumber(ffi.cast("intptr_t", ctx))] = true end)

--- Values of mp_pool_settings, the defaults where `change` says nothing.
function M.settings(change)
  local s = ffi.new "struct mp_pool_settings"
  C.mp_pool_settings_init(s)
  for key, value in pairs(change or {}) do
    s[key] = value
  end
  return s
end

--- An override of some keys.
function M.override(change)
  local bits = ffi.new "struct mp_pool_override"
  for key, value in pairs(change or {}) do
    bits.value[key] = value
    bits.set = bit.bor(bits.set, bit.lshift(1, C["MP_SET_" .. key .. "_BIT"]))
  end
  return bits
end

---@param o table memory, max_wait, min_residency (of the device); ports; wall (Unix seconds); models: name -> { need, load, unload, fail, … },
--- whose `settings` are declared to the keeper; scale, evict: policies
function M.house(o)
  local self = setmetatable({ now = 1000, wall = o.wall or 1700000000, events = {}, order = 0, models = {}, by_id = {}, ids = 0, moves = {},
    moved = {}, started = {}, gone = {}, woken = {}, over = {}, calls = {}, memory = o.memory or 0, scale = o.scale, evict = o.evict }, House)
  here = self
  self.check_memory = o.check_memory or function() end
  self.check_places = o.check_places or function() end
  self.on_move = o.on_move or function() end
  self.pool = C.mp_pool_new()
  C.mp_pool_set_time(self.pool, ns(self.now))
  C.mp_pool_on_demand(self.pool, demand, nil)
  C.mp_pool_provide(self.pool, "fake", provider_ops, nil)
  self.ports = {}
  for i = 1, o.ports or 1 do
    self.ports[i] = C.mp_pool_port_new(self.pool, wake, ffi.cast("void *", i))
    C.mp_pool_port_bind(self.ports[i], 0, ffi.cast("void *", 1))
  end
  local ops = ffi.new("struct mp_keeper_ops", keeper_ops)
  ops.scale, ops.evict = o.scale and with_policy.scale or nil, o.evict and with_policy.evict or nil
  self.ops = ops
  self.keeper = C.mp_keeper_new(self.pool, ops, nil)
  C.mp_keeper_device(self.keeper, "fake", self.memory, o.max_wait or 10, o.min_residency or 5)
  self.err = ffi.new "struct mp_err"
  local names = {}
  for name in pairs(o.models or {}) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    self:declare(name, o.models[name])
  end
  self.dirty = true
  return self
end

--- Declares a model, or again with other settings.
function House:declare(name, o)
  o = o or {}
  local m = self.models[name]
  if not m then
    local out = ffi.new "struct mp_pool_model *[1]"
    assert(C.mp_pool_declare(self.pool, name, ffi.new("const char *[1]", { "fake" }), 1, out, self.err) == 0, ffi.string(self.err.message))
    m = { name = name, ptr = out[0], loads = 0, running = 0, engine = { state = "cold", held = 0 } }
    self.models[name] = m
  end
  for _, key in ipairs { "need", "load", "unload", "fail" } do
    m[key] = o[key] or m[key]
  end
  m.need, m.load = m.need or 1, m.load or 1
  m.settings, m.schedules = M.settings(o.settings), o.schedules
  C.mp_keeper_declare(self.keeper, m.ptr, m.settings, o.schedules, o.n_schedules or 0, o.preload or false)
  m.declared = true
  if not o.unsaid then
    self:say(m, m.engine.state)
  end
  return m
end

--- Its engine says a state.
function House:say(m, state, reason, more)
  m.engine.state = state
  local said = ffi.new("struct mp_msg_model_state", { state = STATE[state], need = m.need, reserved = m.engine.held, total = 100 })
  if state == "failed" then
    said.error, said.reason.p, said.reason.n = C.MP_EFORMAT, reason, #reason
  end
  for key, value in pairs(more or {}) do
    said[key] = value
  end
  C.mp_pool_model_report(m.ptr, said, 7)
  C.mp_keeper_report(self.keeper, m.ptr, said, ns(self.now))
  self.dirty = true
end

--- The engine dies: what ran on it fails, as its provider would say.
function House:die()
  self.dying = true
  for _, m in pairs(self.models) do
    m.engine.order = (m.engine.order or 0) + 1
    m.engine.state, m.engine.held, m.engine.loading = "cold", 0, false
    C.mp_pool_model_lost(m.ptr)
    C.mp_keeper_lost(self.keeper, m.ptr, ns(self.now))
  end
  for _, call in pairs(self.by_id) do
    if call.state == "running" then
      C.mp_err_set(self.err, C.MP_EENGINE, "the engine ended")
      C.mp_call_on_failed(call.ptr, self.err, 1)
    end
  end
  self.dying = false
  self.dirty = true
end

--- A request. -> call, or nil, code, message, retry_after when it is refused
function House:call(name, o)
  o = o or {}
  self.ids = self.ids + 1
  local call = setmetatable({ id = self.ids, model = self.models[name], state = "waiting", came = self.now, port = o.port or 1 }, { __index = o })
  self.by_id[call.id] = call
  local args = ffi.new("struct mp_call_args", { model = call.model.ptr, kind = C.MP_PREPARE_TEXT, payload = ffi.cast("const char *", "hello"),
    n = 5, events = call_events, user = ffi.cast("void *", call.id), priority = o.priority or 0, background = o.background or false,
    hold = o.hold or false, deadline_ns = o.deadline and ns(self.now + o.deadline) or 0 })
  C.mp_msg_start_init(args.start)
  call.ptr = C.mp_call_new(self.ports[call.port], args, self.err)
  if call.ptr == nil then
    self.by_id[call.id] = nil
    call.state = "refused"
    return nil, ffi.string(C.mp_err_name(self.err.code)), ffi.string(self.err.message), self.err.retry_after
  end
  return call
end

function House:cancel(call)
  if self.by_id[call.id] and (call.state == "waiting" or call.state == "running") then
    C.mp_call_cancel(call.ptr)
    ended(call, "cancelled")
  end
end

function House:progress(call)
  local p = ffi.new "struct mp_call_progress"
  C.mp_call_progress(call.ptr, ns(self.now), p)
  return { phase = ({ [0] = "queued", "loading", "running", "over" })[tonumber(p.phase)], start = ({ "warm", "cold" })[tonumber(p.start)],
    ahead = p.ahead, done = tonumber(p.done), total = tonumber(p.total), waited = p.waited, expected = p.expected }
end

function House:facts(name)
  local f = ffi.new "struct mp_pool_facts"
  C.mp_pool_model_facts(self.models[name].ptr, ns(self.now), f)
  return f
end

function House:status(name)
  local s = ffi.new "struct mp_pool_status"
  C.mp_pool_model_status(self.models[name].ptr, s)
  return s
end

function House:state(name)
  return STATES[tonumber(C.mp_pool_model_state(self.models[name].ptr))]
end

function House:room()
  local r = ffi.new "struct mp_device_room"
  assert(C.mp_keeper_room(self.keeper, 0, r))
  return r
end

function House:ask(name, change, reset)
  local rc = C.mp_pool_model_ask(self.models[name].ptr, M.override(change), reset or 0, self.err)
  return rc == 0 or nil, ffi.string(self.err.message)
end

-- ---- time ----

--- Calls f in so many seconds. A binary heap: of two at one moment, the one that came first.
function House:at(seconds, f)
  self.order = self.order + 1
  local heap, node = self.events, { at = self.now + seconds, n = self.order, f = f }
  local i = #heap + 1
  while i > 1 do
    local up = math.floor(i / 2)
    if heap[up].at < node.at or (heap[up].at == node.at and heap[up].n < node.n) then
      break
    end
    heap[i], i = heap[up], up
  end
  heap[i] = node
end

local function pop(heap)
  local top, last = heap[1], table.remove(heap)
  local i, n = 1, #heap
  if n == 0 then
    return top
  end
  while true do
    local child = 2 * i
    if child > n then
      break
    end
    local function less(a, b)
      return a.at < b.at or (a.at == b.at and a.n < b.n)
    end
    if child < n and less(heap[child + 1], heap[child]) then
      child = child + 1
    end
    if less(last, heap[child]) then
      break
    end
    heap[i], i = heap[child], child
  end
  heap[i] = last
  return top
end

local function to_seconds(n)
  return tonumber(n) / SECOND
end

--- What is to be done at this moment.
function House:settle()
  local spins = 0
  local again
  repeat
    again = false
    spins = spins + 1
    assert(spins < 1000, "no end of turns at one moment")
    while self.events[1] and self.events[1].at <= self.now do
      pop(self.events).f()
    end
    for i in pairs(self.woken) do
      self.woken[i] = nil
      C.mp_pool_port_run(self.ports[i], ns(self.now))
      again = true
    end
    for i, port in ipairs(self.ports) do
      if to_seconds(C.mp_pool_port_due(port)) <= self.now then
        C.mp_pool_port_run(self.ports[i], ns(self.now))
      end
    end
    if self.dirty or not self.due or self.due <= self.now then
      self.dirty = false
      self.turns = (self.turns or 0) + 1
      self.due = to_seconds(C.mp_keeper_turn(self.keeper, ns(self.now), math.floor(self.wall)))
      again = true
    end
    again = again or (self.events[1] and self.events[1].at <= self.now)
  until not again
end

--- So many seconds pass.
function House:run(seconds)
  local target = self.now + seconds
  self:settle()
  while true do
    local at = math.min(target, self.due, self.events[1] and self.events[1].at or target)
    for _, port in ipairs(self.ports) do
      at = math.min(at, to_seconds(C.mp_pool_port_due(port)))
    end
    if at > target or (at == target and self.now == target) then
      return
    end
    at = math.max(at, self.now)
    self.wall = self.wall + (at - self.now)
    self.now = at
    C.mp_pool_set_time(self.pool, ns(self.now))
    self:settle()
    if self.now >= target then
      return
    end
  end
end

--- Everything ends: calls are cancelled, what is counted must be back at nothing.
function House:close()
  for _, call in pairs(self.by_id) do
    self:cancel(call)
  end
  self:settle()
  for name, m in pairs(self.models) do
    local s = self:status(name)
    assert(s.waiting == 0 and s.in_flight == 0 and m.running == 0, "requests are left at " .. name)
  end
  for _, port in ipairs(self.ports) do
    C.mp_pool_port_free(port)
  end
  C.mp_keeper_free(self.keeper)
  C.mp_pool_free(self.pool)
  here = nil
end

return M
