-- luacheck: no max line length (policies and expected texts stand on one line each)
--- core/script/policy.c, policy_call.c, lua/moonpool/policy: who decides, what counts, what falls back; the spec plays pool and engine.
local script = require "spec.support.script"
local C, ffi, json = script.C, script.ffi, script.json
require "spec.support.ffi"("core/telemetry/decisions.h", "core/telemetry/metrics.h")

local NOW = 1700000000.25
local generation, policies, app
local count = 0

after_each(function()
  if policies then
    C.mp_policies_free(policies)
    policies = nil
  end
  if generation then
    C.mp_generation_free(generation)
    generation = nil
  end
  if app then
    app:close()
    app = nil
  end
end)

--- A policy of a name of its own (faults are counted per name for as long as the process lives) with these slots.
local function policy(slots, before)
  count = count + 1
  local name = "p" .. count
  return (before or "") .. ' mp.server { policy = "' .. name .. '" } mp.policy "' .. name .. '" { ' .. slots .. " }", name
end

local function use(source)
  local g, text = script.build(source)
  generation = assert(g, text)
  policies = C.mp_policies_new()
end

local keep = {}
local function facts(t)
  local f = ffi.new "struct mp_pool_facts"
  C.mp_pool_settings_init(f.settings)
  f.name, f.device, f.state = t.name or "m", "cpu", t.state or C.MP_MODEL_WARM
  keep[f] = t
  for _, k in ipairs { "replicas", "warm", "in_flight", "queued", "idle", "oldest_wait", "load_seconds", "resident", "memory", "need", "calls", "loads" } do
    f[k] = t[k] or 0
  end
  for _, k in ipairs { "min_replicas", "max_replicas", "scaledown_window", "target_concurrency", "max_concurrency", "queue_max" } do
    if t[k] then
      f.settings[k] = t[k]
    end
  end
  return f
end

local function scale(t, now)
  local reason = ffi.new "char[300]"
  local n = C.mp_policy_scale(policies, generation, facts(t or {}), now or NOW, reason, 300)
  return n, ffi.string(reason)
end

local function evict(list, need)
  local reason, chosen = ffi.new "char[300]", ffi.new("uint32_t[?]", #list + 1)
  local candidates = ffi.new("struct mp_pool_facts[?]", #list + 1)
  for i, t in ipairs(list) do
    candidates[i - 1] = facts(t)
  end
  local n = C.mp_policy_evict(policies, generation, candidates, #list, need, NOW, chosen, reason, 300)
  local names = {}
  for i = 0, n - 1 do
    names[#names + 1] = list[chosen[i] + 1].name
  end
  return n >= 0 and table.concat(names, " ") or n, ffi.string(reason)
end

--- The decisions since the last call.
local seen = 0
local function decisions()
  local b, list = ffi.new "struct mp_buf", {}
  repeat
    local before = seen
    C.mp_buf_free(b)
    seen = tonumber(C.mp_decisions_print(seen, 100, b))
    for line in (b.data ~= nil and ffi.string(b.data, b.len) or ""):gmatch "[^\n]+" do
      list[#list + 1] = json.decode(line)
    end
  until seen == before
  C.mp_buf_free(b)
  return list
end
before_each(function()
  decisions()
end)

--- What is known for status of one policy.
local function faults(name)
  local e, list = ffi.new "struct mp_policy_error", {}
  local i = 0
  while C.mp_policy_errors(i, e) do
    if ffi.string(e.policy) == name then
      table.insert(list, { ffi.string(e.slot), ffi.string(e.kind), ffi.string(e.message), tonumber(e.count) })
    end
    i = i + 1
  end
  return list
end

local function counted(name, slot, kind)
  local values = ffi.new("const char *[3]", { name, slot, kind })
  return C.mp_cell_get(C.mp_metric_cell("MP_METRIC_POLICY_ERRORS", values))
end

describe("the default policy", function()
  before_each(function()
    use ""
  end)

  it("scales by demand over target_concurrency, keeps one within the window", function()
    for _, case in ipairs {
      { { }, 0, "idle" },
      { { in_flight = 1 }, 1, "demand" },
      { { in_flight = 8, target_concurrency = 8 }, 1, "demand" },
      { { in_flight = 8, queued = 1, target_concurrency = 8 }, 2, "demand" },
      { { queued = 100, target_concurrency = 1 }, 100, "demand" },
      { { replicas = 1, idle = 299.9 }, 1, "within scaledown_window" },
      { { replicas = 1, idle = 300 }, 0, "idle" },
      { { replicas = 1, idle = 1, scaledown_window = 0.5 }, 0, "idle" },
      { { replicas = 0, idle = 1, calls = 3 }, 0, "idle" }, -- one that had to go is not fetched back without a request
    } do
      local n, reason = scale(case[1])
      assert.same({ case[2], case[3] }, { n, reason })
    end
  end)

  it("is recorded with its inputs", function()
    scale { name = "smol", in_flight = 3, queued = 2, memory = 7 * 2 ^ 20, max_concurrency = 4, state = C.MP_MODEL_DECLARED }
    local d = decisions()[1]
    assert.same({ "scale", "default", "smol", "1", "demand" }, { d.kind, d.policy, d.model, d.decision, d.reason })
    assert.is_nil(d.fallback)
    assert.equal(NOW, d.inputs.now)
    assert.same({}, d.inputs.state)
    assert.same({ name = "smol", device = "cpu", state = "cold", replicas = 0, warm = 0, in_flight = 3, queued = 2, idle = 0, oldest_wait = 0,
      load_seconds = 0, resident = 0, memory = 7340032, need = 0, calls = 0, loads = 0, min_replicas = 0, max_replicas = 1,
      scaledown_window = 300, startup_timeout = 600, target_concurrency = 8, max_concurrency = 4, queue = { max = 64, timeout = 30 } }, d.inputs.pool)
  end)

  it("evicts the least recently used, nobody more than needed, and spares those that are in use or kept warm", function()
    local a, b, c = { name = "a", memory = 10, idle = 30 }, { name = "b", memory = 20, idle = 20 }, { name = "c", memory = 30, idle = 10 }
    local busy = { name = "busy", memory = 100, in_flight = 1 }
    local waited = { name = "waited", memory = 100, queued = 1 }
    local kept = { name = "kept", memory = 100, idle = 99, min_replicas = 1 }
    for _, case in ipairs {
      { { a, b, c }, 5, "a" },
      { { c, b, a }, 10, "a" },
      { { a, b, c }, 11, "b" }, -- a is not needed once b goes
      { { a, b, c }, 30, "a b" },
      { { a, b, c }, 31, "a c" },
      { { a, b, c }, 60, "a b c" },
      { { a, b, c }, 0, "" },
      { { busy, a }, 10, "a" },
      { { busy, waited, kept, a }, 10, "a" },
      { { busy, waited, kept, a }, 90, "kept" },
      { { busy, kept, c }, 130, "c kept" },
      { { busy, a }, 100, "busy" },
      { { { name = "z", memory = 1 }, { name = "y", memory = 1 } }, 1, "y" }, -- all the same: by name, so that it can be decided again
    } do
      assert.same({ case[3], case[2] }, { (evict(case[1], case[2])), case[2] })
    end
    assert.same({ "", "not even all of them would do" }, { evict({ a, b }, 31) })
    local d = decisions()
    assert.same({ "evict", "default", "nobody" }, { d[#d].kind, d[#d].policy, d[#d].decision })
    assert.same({ 31, "b" }, { d[#d].inputs.need, d[#d].inputs.candidates[2].name })
  end)

  it("is there to be called, and to be copied whole", function()
    C.mp_generation_free(generation)
    generation = nil
    C.mp_policies_free(policies)
    use((policy [[scale = function(pool, now, state) local n, why = require "moonpool.policy.default".scale(pool, now, state) return n + 1, why .. " and one" end]]))
    assert.same({ 2, "demand and one" }, { scale { in_flight = 1 } })
    local g, text = script.build [[mp.server { policy = "copy" } mp.policy "copy" (require "moonpool.policy.default")]]
    assert(g, text)
    assert.equal(2 ^ C.MP_N_POLICY_SLOTS - 1, C.mp_generation_config(g).policies[0].slots) -- it fills every slot, and nothing else
    C.mp_generation_free(g)
  end)
end)

describe("a policy's scale", function()
  it("decides, with its reason", function()
    local source, name = policy "scale = function(pool, now) return pool.queue.max + 0.2, 'at ' .. now end"
    use(source)
    assert.same({ 8, "at 1700000000.25" }, { scale { queue_max = 7 } })
    local d = decisions()[1]
    assert.same({ name, "8", "at 1700000000.25" }, { d.policy, d.decision, d.reason })
    assert.same({}, faults(name))
  end)

  it("keeps a state per model, over reloads, as JSON", function()
    local source, name = policy "scale = function(pool, now, state) state.n = (state.n or 0) + 1 state.list = { 1, { x = pool.name } } return state.n end"
    use(source)
    assert.equal(1, (scale { name = "a" }))
    assert.equal(2, (scale { name = "a" }))
    assert.equal(1, (scale { name = "b" }))
    C.mp_generation_free(generation)
    generation = assert(script.build(source))
    assert.equal(3, (scale { name = "a" }))
    local d = decisions()
    assert.same({ n = 2, list = { 1, { x = "a" } } }, d[#d].inputs.state)
    C.mp_generation_free(generation)
    generation = assert(script.build((source:gsub(name, name .. "b")))) -- another policy has a state of its own
    assert.equal(1, (scale { name = "a" }))
  end)

  it("that raises, is late, takes memory or answers nonsense does not count: the default's does", function()
    for _, case in ipairs {
      { "error 'boom'", "raised", "conf/moonpool.lua:2: boom" },
      { "error { code = 'x', message = 'a table' }", "raised", "a table" },
      { "local x = nil; return x.y", "raised", "conf/moonpool.lua:2: attempt to index local 'x' (a nil value)" },
      { "while true do end", "late", "conf/moonpool.lua:2: ran too long and was stopped" },
      { "while true do pcall(function() while true do end end) end", "late", "conf/moonpool.lua:2: ran too long and was stopped" },
      { "local co = coroutine.wrap(function() while true do end end) co() return 1", "late", "ran too long" },
      { "return #('x'):rep(2^25)", "memory", "it held more memory than limits.run_memory (16777216 bytes) allows" },
      { "pcall(string.rep, 'x', 2^25) return 5", "memory", "it held more memory" },
      { "error()", "raised", "" },
      { "error(print)", "raised", "" },
      { "error(setmetatable({}, { __tostring = function() while true do end end, __index = function() while true do end end }))", "raised", "" },
      { "local function f() return 1 + f() end return f()", "raised", "stack overflow" },
      { "return coroutine.create(print)", "nonsense", "the answer must be a number of replicas, not an object" },
      { "state.x = state return 1", "nonsense", "its state cannot be kept (as JSON, 65536 bytes at most): " },
      { "state[1.5] = 1 return 1", "nonsense", "its state cannot be kept (as JSON, 65536 bytes at most): " },
      { "setmetatable(state, { __index = function() while true do end end }) state.x = 0/0 return 1", "nonsense", "its state cannot be kept (as JSON, 65536 bytes at most): " },
      { "", "nonsense", "the answer must be a number of replicas, not nothing" },
      { "return '1'", "nonsense", "the answer must be a number of replicas, not a string" },
      { "return true", "nonsense", "the answer must be a number of replicas, not true" },
      { "return 0/0", "nonsense", "the answer must be a number of replicas, not NaN" },
      { "return -1", "nonsense", "the answer must be from 0 to 1024 replicas, not -1" },
      { "return 1025", "nonsense", "the answer must be from 0 to 1024 replicas, not 1025" },
      { "return 1/0", "nonsense", "the answer must be from 0 to 1024 replicas, not inf" },
      { "return 1, {}", "nonsense", "the reason must be a string, not a table" },
      { "state.f = print return 1", "nonsense", "its state cannot be kept (as JSON, 65536 bytes at most): " },
      { "state.s = ('x'):rep(70000) return 1", "nonsense", "its state cannot be kept (as JSON, 65536 bytes at most): the JSON text is longer than allowed" },
    } do
      local source, name = policy("scale = function(pool, now, state) " .. case[1] .. " end")
      use(source)
      assert.same({ 3, "demand" }, { scale { in_flight = 17 } })
      local d = decisions()[1]
      assert.same({ name, "3", "demand" }, { d.policy, d.decision, d.reason })
      local why = d.fallback:match("^" .. case[2] .. ": (.*)") or d.fallback
      assert.is_truthy(why:gsub("/tmp/[^ ]-/conf/", "conf/"):find(case[3], 1, true), case[1] .. "\n" .. d.fallback)
      assert.same({ { "scale", case[2], why, 1 } }, faults(name))
      assert.equal(1, counted(name, "scale", case[2]))
      assert.equal(3, (scale { in_flight = 17 })) -- and the VM is as it was
      assert.equal(2, faults(name)[1][4])
      C.mp_policies_free(policies)
      C.mp_generation_free(generation)
      policies, generation = nil, nil
    end
  end)

  it("leaves its state as it was when its answer does not count", function()
    use((policy "scale = function(pool, now, state) state.n = (state.n or 0) + 1 if pool.queued > 0 then return 'x' end return state.n end"))
    assert.equal(1, (scale {}))
    scale { queued = 1 }
    assert.equal(2, (scale {}))
  end)

  it("is pure: no waits, clock, chance or environment", function()
    for code, what in pairs {
      ["mp.time()"] = "mp.time", ["mp.uuid()"] = "mp.uuid", ["mp.env 'HOME'"] = "mp.env", ["mp.sleep(0)"] = "mp.sleep", ["os.time()"] = "os.time() without a table",
      ["os.date '%H'"] = "os.date() without a time", ["os.clock()"] = "os.clock", ["math.random()"] = "math.random", ["math.randomseed(1)"] = "math.randomseed",
      ["mp.models.m:chat { messages = {} }"] = "model:chat", ["mp.models.m:status()"] = "model:status", ["mp.models.m:scale {}"] = "model:scale",
      ["mp.all {}"] = "mp.all",
    } do
      local source, name = policy("scale = function() " .. code .. " return 5 end", 'mp.model "m" { source = "tiny.gguf" }')
      use(source)
      assert.same({ 0, code }, { (scale {}), code })
      assert.equal("raised", (faults(name)[1] or { nil, code })[2])
      assert.matches("moonpool.lua:2: a policy may not use " .. what:gsub("%p", "%%%0") .. ": time and state are its arguments, and nothing else counts", faults(name)[1][3])
      C.mp_policies_free(policies)
      C.mp_generation_free(generation)
      policies, generation = nil, nil
    end
    -- what depends on arguments only may be used, in a function that is called from it too
    use((policy("scale = function(pool, now) return tonumber(hour(now)) + os.time { year = 2001, month = 1, day = 1 } * 0 end",
      "local function hour(now) return os.date('!%H', now) end")))
    assert.equal(22, (scale {}))
  end)

  it("cannot reach out: globals are read only, and what waits in a coroutine raises too", function()
    for _, code in ipairs { "x = 1", "coroutine.wrap(function() mp.sleep(1) end)()", "coroutine.yield()" } do
      local source, name = policy("scale = function() " .. code .. " return 5 end")
      use(source)
      assert.same({ 0, code }, { (scale {}), code })
      assert.equal("raised", faults(name)[1][2])
      C.mp_policies_free(policies)
      C.mp_generation_free(generation)
      policies, generation = nil, nil
    end
  end)
end)

describe("a policy's evict", function()
  local LIST = { { name = "a", memory = 10, idle = 2 }, { name = "b", memory = 10, idle = 1 } }

  it("decides, with its reason", function()
    local source, name = policy "evict = function(candidates, need, now) return { candidates[2].name, candidates[1].name }, 'because ' .. need end"
    use(source)
    assert.same({ "b a", "because 3" }, { evict(LIST, 3) })
    assert.same({ "evict", name, "b, a" }, { (function(d) return d.kind, d.policy, d.decision end)(decisions()[1]) })
    assert.equal(1, (scale { in_flight = 1 })) -- a slot that it lacks is the default's
    assert.equal("default", decisions()[1].policy)
  end)

  it("that answers nonsense does not count", function()
    for code, why in pairs {
      [""] = "the answer must be a list of names, not nothing",
      ["return 'a'"] = "the answer must be a list of names, not a string",
      ["return { 'c' }"] = '"c" is none of the candidates',
      ["return { 'b', 'b' }"] = '"b" is named twice',
      ["return { 'b', 3 }"] = "the answer's item 2 must be a name, not a number",
      ["return { candidates[1] }"] = "the answer's item 1 must be a name, not a table",
      ["return {}, 3"] = "the reason must be a string, not a number",
    } do
      local source, name = policy("evict = function(candidates) " .. code .. " end")
      use(source)
      assert.same({ "a", "least recently used" }, { evict(LIST, 3) })
      assert.same({ { "evict", "nonsense", why, 1 } }, faults(name))
      C.mp_policies_free(policies)
      C.mp_generation_free(generation)
      policies, generation = nil, nil
    end
  end)
end)

-- ---- in the workers ----

local MODELS = [[local smol = mp.model "smol" { source = "tiny.gguf", sampling = { seed = 1 } }
local big = mp.model "big" { source = "tiny.gguf", sampling = { seed = 2 } } ]]
local ASK = "{ messages = { { role = 'user', content = 'hi' } }, priority = PRIORITY }"

local function app_of(slots, opts)
  opts = opts or {}
  local source, name = policy(slots, (opts.before or "") .. MODELS)
  app = script.app(source .. " mp.endpoint { route = 'POST /x', handle = function(req, res) local out, err = smol:" .. (opts.fn or "chat")
    .. ASK:gsub("PRIORITY", opts.priority or 3) .. " " .. (opts.after or "if out then return out end return nil, err") .. " end }", { workers = 1 })
  return name
end

local function args_of(call)
  return C.mp_call_args(call.ptr)
end

describe("admit", function()
  it("accepts, or puts behind everything that is accepted", function()
    for answer, background in pairs { accept = false, queue = true } do
      for _, fn in ipairs { "chat", "chat_stream" } do
        local name = app_of("admit = function(req, pool, now) return '" .. answer .. "', req.id .. pool.name end", { fn = fn })
        local r = app:request { path = "/x" }
        assert.same({ background, 3 }, { args_of(app.calls[1]).background, args_of(app.calls[1]).priority })
        app.calls[1]:answer "ok"
        assert.equal(200, r.status)
        local d = decisions()
        assert.equal(1, #d)
        assert.same({ "admit", name, "smol", answer, "req-1smol" }, { d[1].kind, d[1].policy, d[1].model, d[1].decision, d[1].reason })
        assert.same({ id = "req-1", endpoint = "POST /x", path = "/x", remote = "127.0.0.1:5", tenant = "", model = "smol", priority = 3 }, d[1].inputs.req)
        assert.equal("smol", d[1].inputs.pool.name)
        assert.near(os.time(), d[1].inputs.now, 60)
        app:close()
        app = nil
      end
    end
  end)

  it("refuses with an error that the handler gets, and the client unless the handler does otherwise", function()
    for code, expect in pairs {
      ["nil"] = { 429, "refused", "refused by the policy" },
      ["nil, 'not today'"] = { 429, "refused", "not today" },
      ["nil, { code = 'tired', message = 'later', status = 503, retry_after = 7 }"] = { 503, "tired", "later", "7" },
      ["nil, { code = 'not_found', message = 'm' }"] = { 404, "not_found", "m" },
      ["nil, { retry_after = 2 }"] = { 429, "refused", "refused by the policy", "2" },
    } do
      for _, fn in ipairs { "chat", "chat_stream" } do
        app_of("admit = function() return " .. code .. " end", { fn = fn })
        local r = app:request { path = "/x" }
        assert.equal(0, #app.calls)
        local e = r:json().error
        assert.same({ expect[1], expect[2], expect[4] }, { r.status, e.code, r.headers["retry-after"] })
        assert.equal(expect[3], e.message:sub(1, #expect[3]))
        local d = decisions()[1]
        assert.same({ "refuse", e.message }, { d.decision, d.reason })
        app:close()
        app = nil
      end
    end
    app_of("admit = function() return nil, 'x' end", { after = "return { err.code, err.status, tostring(err) }" })
    assert.equal('["refused",429,"x"]', app:request({ path = "/x" }).body)
  end)

  it("that fails does not count: the request is accepted", function()
    for code, fault in pairs {
      ["error 'boom'"] = "raised", ["while true do end"] = "late", ["return 'perhaps'"] = "nonsense", ["return false"] = "nonsense", ["return 1"] = "nonsense",
      ["return nil, 3"] = "nonsense", ["return nil, { status = 200 }"] = "nonsense", ["return nil, { status = 'x' }"] = "nonsense", ["return nil, { code = 7 }"] = "nonsense",
      ["return nil, { retry_after = -1 }"] = "nonsense", ["return 'queue', 5"] = "nonsense", ["return mp.sleep(1)"] = "raised",
      ["return ('x'):rep(2^25)"] = "memory",
    } do
      local name = app_of("admit = function() " .. code .. " end")
      local r = app:request { path = "/x" }
      assert.equal(1, #app.calls, code)
      assert.is_false(args_of(app.calls[1]).background, code)
      app.calls[1]:answer "ok"
      assert.equal(200, r.status, code)
      assert.equal(fault, faults(name)[1][2], code)
      assert.same({ "admit", name, "accept" }, { (function(d) return d.kind, d.policy, d.decision end)(decisions()[1]) })
      app:close()
      app = nil
    end
  end)

  it("that is late takes nothing of the request's own time, and every request has the same", function()
    app_of("admit = function() while true do end end", { before = "mp.endpoint { route = 'POST /y', handle = function() for i = 1, 4 do local _, e = smol:complete { prompt = '' } end return {} end } ",
      after = "local t = os.clock() while os.clock() - t < 0.004 do end return out" })
    for i = 1, 3 do
      local r = app:request { path = "/x" }
      app.calls[i]:answer "ok"
      assert.equal(200, r.status)
    end
  end)
end)

describe("rank", function()
  it("gives the priority", function()
    local name = app_of "rank = function(job, now) return job.priority * 2 + 0.6, 'twice' end"
    app:request { path = "/x" }
    assert.equal(7, args_of(app.calls[1]).priority)
    local d = decisions()[1]
    assert.same({ "rank", name, "7", "twice", 3 }, { d.kind, d.policy, d.decision, d.reason, d.inputs.job.priority })
    app.calls[1]:answer()
  end)

  it("that answers nonsense does not count: the priority stays", function()
    for code, why in pairs { ["'high'"] = "the answer must be a number, not a string", ["1001"] = "the answer must be from -1000 to 1000, not 1001",
      ["0/0"] = "the answer must be a number, not NaN", ["nil"] = "the answer must be a number, not nothing" } do
      local name = app_of("rank = function() return " .. code .. " end")
      app:request { path = "/x" }
      assert.equal(3, args_of(app.calls[1]).priority)
      assert.same({ { "rank", "nonsense", why, 1 } }, faults(name))
      assert.equal("3", decisions()[1].decision)
      app.calls[1]:answer()
      app:close()
      app = nil
    end
  end)
end)

describe("route", function()
  it("chooses among the declared models; the other's own defaults count", function()
    for _, fn in ipairs { "chat", "chat_stream" } do
      local name = app_of("route = function(req, candidates, now) return candidates[2].name, req.model .. ' ' .. #candidates end, admit = function(req, pool) return 'accept', req.model .. pool.name end", { fn = fn })
      app:request { path = "/x" }
      assert.same({ "big", 2 }, { app.calls[1].model, tonumber(app.calls[1].start.seed) })
      local d = decisions()
      assert.same({ "route", name, "smol", "big", "smol 2" }, { d[1].kind, d[1].policy, d[1].model, d[1].decision, d[1].reason })
      assert.same({ "smol", "big" }, { d[1].inputs.candidates[1].name, d[1].inputs.candidates[2].name })
      assert.same({ "admit", "big", "smolbig" }, { d[2].kind, d[2].model, d[2].reason })
      app.calls[1]:answer()
      app:close()
      app = nil
    end
  end)

  it("that answers nonsense does not count: the model that was asked for answers", function()
    for code, why in pairs { ["'none'"] = '"none" is none of the candidates', ["candidates[1]"] = "the answer must be a candidate's name, not a table",
      ["'big', {}"] = "the reason must be a string, not a table" } do
      local name = app_of("route = function(req, candidates) return " .. code .. " end")
      app:request { path = "/x" }
      assert.equal("smol", app.calls[1].model)
      assert.same({ { "route", "nonsense", why, 1 } }, faults(name))
      assert.equal("smol", decisions()[1].decision)
      app.calls[1]:answer()
      app:close()
      app = nil
    end
  end)
end)

describe("C's shortcut for the slots that a policy lacks", function()
  --- What reaches the pool for a request, by who decides.
  local function outcome(head, priority)
    app = script.app(head .. MODELS .. "mp.endpoint { route = 'POST /x', handle = function() return smol:chat" .. ASK:gsub("PRIORITY", priority) .. " end }")
    app:request { path = "/x" }
    local call = app.calls[1]
    local got = { call.model, args_of(call).priority, args_of(call).background, tonumber(call.start.seed) }
    call:answer()
    app:close()
    app = nil
    return got
  end

  it("is what the default policy says", function()
    for _, priority in ipairs { -1000, -1, 0, 7, 1000 } do
      local shortcut = outcome("", priority)
      assert.equal(0, #decisions()) -- nobody was asked
      local name = "copy" .. priority
      assert.same(shortcut, outcome('mp.server { policy = "' .. name .. '" } mp.policy "' .. name .. '" (require "moonpool.policy.default") ', priority))
      local kinds = {}
      for _, d in ipairs(decisions()) do
        table.insert(kinds, d.kind)
        assert.is_nil(d.fallback)
      end
      assert.same({ "route", "admit", "rank" }, kinds)
    end
  end)
end)

describe("model:scale", function()
  local function ask(code)
    app = script.app(MODELS .. "mp.endpoint { route = 'POST /x', handle = function() " .. code .. " end }")
    return app:request { path = "/x" }
  end

  it("asks for other settings, and forgets them", function()
    local r = ask "assert(smol:scale { min_replicas = 1, scaledown_window = '1m', queue = { max = 3 } } == true) return assert(smol:status()).name or 'ok'"
    assert.equal(200, r.status)
    assert.equal("ok", r.body)
    app:close()
    assert.equal("ok", ask("smol:scale { min_replicas = 1 } assert(smol:scale { min_replicas = mp.null, queue = mp.null }) return 'ok'").body)
  end)

  it("gives nil, err for what is out of range, and raises for what is the script's mistake", function()
    for code, expect in pairs {
      ["{ min_replicas = 2000 }"] = "'min_replicas' must be between 0 and 1024, not 2000",
      ["{ min_replicas = 2 }"] = "'min_replicas' above 1 is not yet built",
      ["{ queue = { max = -1 } }"] = "'queue.max' must be between 0 and 1000000, not -1",
      ["{ scaledown_window = 'soon' }"] = "'scaledown_window' must be seconds (a number, or text like \"5m\"), not \"soon\"",
      ["{ min_replicas = 1, max_replicas = 0 }"] = "'min_replicas' is above 'max_replicas'",
    } do
      local r = ask("return smol:scale " .. code)
      assert.same({ 400, expect }, { r.status, r:json().error.message })
      app:close()
    end
    for code, expect in pairs {
      ["smol:scale { mn_replicas = 1 }"] = "model:scale: unknown key 'mn_replicas': did you mean 'min_replicas'?",
      ["smol:scale()"] = "model:scale takes a table: model:scale{ min_replicas = 1 }",
      ["smol:scale {}"] = "model:scale: nothing is set",
      ["smol.scale {}"] = "model:scale: write it with a colon, on a model",
    } do
      local r = ask("local _, e = pcall(function() return " .. code .. " end) return e")
      assert.equal(expect, r.body:gsub("^.-lua:%d+: ", ""))
      app:close()
    end
    app = nil
  end)

  it("is said in status, with what else is known", function()
    local r = ask "local s = smol:status() return { s.min_replicas, s.queue.max, s.waiting, s.need, s.idle ~= nil, s.load_seconds }"
    assert.equal("[0,64,0,0,true,0]", r.body)
  end)
end)
