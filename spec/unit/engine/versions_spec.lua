--- The engine process and a model's memory and versions: what a load needs and holds, limits, loads given up, checks, and one version
--- taking another's place.
local engine = require "spec.support.engine"
local server = require "spec.support.server"
local tiny = require "spec.support.tiny"
local _, ffi = require "spec.support.ffi"("core/wire/wire.h")

--- An engine on the scripted device with a model file of its own; c:declare("m", spec) declares it.
local function rig(t)
  t = t or {}
  t.group = t.group or "fake"
  local e = engine.start(t)
  local path = e:file "tiny.gguf"
  tiny.write(path)
  return e, e:connect(), path
end

local function warm(c, name)
  c:ask("model_load", name)
  return c:until_state(name, "warm")
end

local function limit(c, bytes)
  local id = c:next_id()
  c:send("device_limit", id, { memory = bytes })
  return c:hear(id)
end

local function check(c, spec)
  local id = c:next_id()
  c:send("model_check", id, { name = "m", spec = type(spec) == "table" and ('{"source":%q%s}'):format(spec[1], spec[2] or "") or spec })
  return c:hear(id)
end

--- Moves a new file to the path, as programs that replace files do.
local function rename_over(path, t)
  tiny.write(path .. ".new", t)
  assert(os.rename(path .. ".new", path))
end

local function until_state(c, name, what, test)
  return server.until_true(what, function()
    c:read()
    local s = c.states[name]
    return s and test(s) and s
  end)
end

describe("an engine's memory", function()
  after_each(engine.cleanup)

  for _, group in ipairs { "fake", "cpu" } do
    it("of a load is known while the model is cold, and is what it takes: " .. group, function()
      local _, c, path = rig { group = group }
      local cold = c:declare("m", { source = path })
      assert.is_true(cold.need > 300000)
      assert.equal(0, cold.reserved)
      local s = warm(c, "m")
      assert.same({ cold.need, cold.need }, { s.need, s.reserved })
      local d = limit(c, 0)
      assert.same({ "device_state", s.device, s.reserved, s.memory }, { d.kind, d.device, d.reserved, d.used })
      c:ask("model_unload", "m")
      s = c:until_state("m", "cold")
      assert.same({ cold.need, 0, 0 }, { s.need, s.reserved, s.memory })
      d = limit(c, 0)
      assert.same({ "", 0, 0 }, { d.device, d.reserved, d.used })
    end)
  end

  it("bounds what is loaded, says what is missing, and lets it in when there is room", function()
    local _, c, path = rig()
    local need = c:declare("m", { source = path }).need
    assert(c:declare("n", { source = path, context = 128 }))
    assert.equal(need * 1.5, limit(c, need * 1.5).memory)
    warm(c, "m")
    local r = c:generate("n", "x", { max_tokens = 1 })
    assert.equal("unavailable", r.code)
    assert.matches("^model 'n' cannot be loaded: it needs 3%d%d KiB, 1%d%d KiB of the device's 5%d%d KiB are free$", r.message)
    local failed = c:until_state("n", "failed")
    local states = {}
    for _, s in ipairs(c.history) do
      states[#states + 1] = s.name == "n" and s.state ~= states[#states] and s.state or nil
    end
    assert.same({ "cold", "loading", "failed" }, states)
    assert.same({ -2, 0 }, { failed.error, failed.reserved })
    assert.is_true(failed.retry_ns > 0 and failed.retry_ns <= 1e9)
    c:ask("model_unload", "m")
    c:until_state("m", "cold")
    c.history = {}
    assert.equal(1, warm(c, "n").loads)
    for _, s in ipairs(c.history) do -- although its file is opened again first
      assert.is_true(s.state == "loading" or s.state == "warm")
    end
  end)

  it("holds KV beyond one context within the limit; sequences wait in line", function()
    local _, c, path = rig { device = "delay_ms=2" }
    local need = c:declare("m", { source = path, context = 64 }).need
    local page, context = 4096, 4 * 4096
    limit(c, need + 2 * context + page) -- room for three whole contexts, and a page
    warm(c, "m")
    local ids = {}
    for i = 1, 9 do
      ids[i] = c:prepare("m", ("x"):rep(40))
      c:send("start", ids[i], { max_tokens = 24, ignore_eog = 1 })
    end
    for i = 1, 9 do
      assert.equal(24, c:result(ids[i]).completion_tokens)
    end
    local most = 0
    for _, s in ipairs(c.history) do
      most = math.max(most, s.reserved)
    end
    assert.equal(need + 2 * context, most)
  end)

  it("has a load wait for KV that requests hold, not for ever", function()
    local _, c, path = rig { device = "delay_ms=10" }
    local need = c:declare("m", { source = path, context = 128 }).need
    local other = c:declare("n", { source = path, context = 64 }).need
    limit(c, need + other) -- n fits beside m alone
    warm(c, "m")
    local ids = {}
    for i = 1, 3 do
      ids[i] = c:prepare("m", "x")
      c:send("start", ids[i], { max_tokens = 100, ignore_eog = 1 })
    end
    until_state(c, "m", "two run", function(s)
      return s.reserved > need
    end)
    c:ask("model_load", "n")
    assert.equal("loading", c.states.n and c:ask("models") and c.states.n.state)
    for i = 1, 3 do
      assert.equal(100, c:result(ids[i]).completion_tokens)
    end
    assert.equal("warm", c:until_state("n", "warm").state)
    for _, s in ipairs(c.history) do
      assert.is_true(s.state ~= "failed")
    end
  end)

  it("lets a load that waits for memory be given up", function()
    local _, c, path = rig { device = "delay_ms=10" }
    local need = c:declare("m", { source = path, context = 128 }).need
    local other = c:declare("n", { source = path, context = 64 }).need
    limit(c, need + other)
    warm(c, "m")
    local ids = {}
    for i = 1, 2 do
      ids[i] = c:prepare("m", "x")
      c:send("start", ids[i], { max_tokens = 100, ignore_eog = 1 })
    end
    until_state(c, "m", "two run", function(s)
      return s.reserved > need
    end)
    c:ask("model_load", "n")
    c:ask("model_unload", "n")
    assert.equal(0, c:until_state("n", "cold").reserved)
    for i = 1, 2 do
      assert.equal(100, c:result(ids[i]).completion_tokens)
    end
  end)

  it("is not kept by a load that is given up: the next one begins anew", function()
    local e, c, path = rig { device = "load_ms=60000" }
    c:declare("m", { source = path })
    c:ask("model_load", "m")
    until_state(c, "m", "it loads", function(s)
      return s.state == "loading" and s.reserved > 0
    end)
    c:ask("model_unload", "m")
    assert.equal(0, c:until_state("m", "cold").reserved)
    assert.equal(0, limit(c, 0).reserved)
    c:ask("model_load", "m")
    assert.equal(0, c:until_state("m", "loading").loads)
    c:ask("model_unload", "m")
    c:ask("model_load", "m") -- at once: it loads again when the first is gone
    c:until_state("m", "draining")
    c:until_state("m", "loading")
    ffi.C.kill(e.pid, 15)
    assert.same({ code = 0 }, e:wait())
  end)

  it("goes back to where it was when nothing is loaded", function()
    local weights = server.weights()
    if not weights then
      pending "needs the default model (./dev fetch)"
      return
    end
    local e = engine.start { threads = 1 }
    local c = e:connect()
    assert(c:declare("m", { source = weights, context = 512 }))
    local function pss()
      local f = assert(io.open(("/proc/%d/smaps_rollup"):format(e.pid)))
      local kib = f:read("*a"):match "\nPss:%s+(%d+) kB"
      f:close()
      return tonumber(kib) / 1024
    end
    local function turn()
      warm(c, "m")
      assert.equal(4, c:generate("m", "Hello", { max_tokens = 4, ignore_eog = 1 }).completion_tokens)
      local loaded = pss()
      c:ask("model_unload", "m")
      c:until_state("m", "cold")
      return loaded
    end
    local first = pss()
    local loaded = turn()
    local after = pss()
    for _ = 1, 3 do
      turn()
    end
    local last = pss()
    print(("PSS in MiB: cold %.1f, warm %.1f, cold again %.1f, and after three more times %.1f"):format(first, loaded, after, last))
    if not os.getenv "MOONPOOL_SANITIZE" then
      assert.is_true(loaded - first > 90)
      assert.is_true(after - first < 4 and last - after < 1)
    end
  end)
end)

describe("a model's declaration", function()
  after_each(engine.cleanup)

  it("is checked without being kept", function()
    local _, c, path = rig()
    local s = check(c, { path })
    assert.same({ "model_state", "m", "cold", 256, tiny.n_vocab, 0 }, { s.kind, s.name, s.state, s.context, s.n_vocab, s.error })
    assert.is_true(s.need > 300000)
    limit(c, s.need - 1)
    s = check(c, { path })
    assert.same({ "failed", -2 }, { s.state, s.error })
    assert.matches("^it needs 3%d%d KiB, the device has 3%d%d KiB in all$", s.reason)
    s = check(c, { path .. "x" })
    assert.same({ "failed", -4 }, { s.state, s.error })
    assert.matches("No such file", s.reason)
    s = check(c, { path, ',"numerics":"fast","contextt":1' })
    assert.same({ "error", "model 'm': unknown key 'contextt'" }, { s.kind, s.message })
    assert.equal(0, c:ask("models").count)
  end)

  it("is checked against what the device can compute, before anything is loaded", function()
    local _, c, path = rig { group = "cpu" }
    local s = check(c, { path, ',"numerics":"fast"' })
    assert.same({ "failed", -7 }, { s.state, s.error })
    assert.matches("does not compute in 'fast' numerics", s.reason)
  end)

  it("is forgotten: what runs ends, what does not run is refused, the name is free", function()
    local _, c, path = rig { device = "delay_ms=5" }
    c:declare("m", { source = path })
    local runs, waits = c:prepare("m", "x"), c:prepare("m", "y")
    c:send("start", runs, { max_tokens = 30, ignore_eog = 1 })
    assert.equal("prepared", c:hear(waits).kind)
    until_state(c, "m", "it runs", function(s)
      return s.state == "warm"
    end)
    assert.equal("draining", c:ask("model_forget", "m").state)
    local t = c:hear(waits)
    assert.same({ "not_found", "model 'm' was removed" }, { t.code, t.message })
    assert.equal("not_found", c:hear(c:prepare("m", "z")).code)
    assert.equal("not_found", c:ask("model_forget", "m").code)
    assert.equal("cold", c:declare("m", { source = path, context = 64 }).state)
    assert.equal(1, c:generate("m", "x", { max_tokens = 1, ignore_eog = 1 }).completion_tokens)
    assert.equal(30, c:result(runs).completion_tokens)
  end)

  it("changes max_concurrency in place, at once", function()
    local _, c, path = rig { device = "delay_ms=20" }
    local function most_of(n)
      local s = c:declare("m", { source = path, max_concurrency = n })
      local ids, slots = {}, {}
      for i = 1, 10 do
        ids[i] = c:prepare("m", "x" .. i)
        c:send("start", ids[i], { max_tokens = 3, ignore_eog = 1 })
      end
      for i = 1, 10 do
        local r = c:result(ids[i])
        slots[i] = r.queue_ns
        assert.equal(3, r.completion_tokens)
      end
      table.sort(slots)
      return s, slots[10] - slots[1]
    end
    c:declare("m", { source = path, max_concurrency = 10 })
    warm(c, "m")
    local _, wide = most_of(10)
    local s, narrow = most_of(1)
    assert.same({ "warm", 1, 0 }, { s.state, s.loads, s.replacing })
    assert.is_true(narrow > 9 * 2 * 20e6 and narrow > 2 * wide, ("%g against %g ms"):format(narrow / 1e6, wide / 1e6))
    _, wide = most_of(20)
    assert.is_true(narrow > 2 * wide)
  end)
end)

describe("a new version of a loaded model", function()
  after_each(engine.cleanup)

  --- `count`: tokens of "<|im_start|>" in the vocabulary that has no control tokens, so that it tells versions apart.
  local ONE, OTHER = 1, 12

  it("takes its place: what runs ends on the old one, what waits is prepared anew", function()
    local e, c, path = rig { device = "delay_ms=10,load_ms=100" }
    local first = c:declare("m", { source = path })
    warm(c, "m")
    local runs, prepared, held = c:prepare("m", "<|im_start|>", 1, { special = 1 }), c:prepare("m", "<|im_start|>", 1, { special = 1 }),
      c:prepare("m", "<|im_start|>", 1, { special = 1 })
    c:send("start", runs, { max_tokens = 60, ignore_eog = 1 })
    assert.equal(ONE, c:hear(prepared).n_tokens)
    assert.equal(ONE, c:hear(held).n_tokens)
    until_state(c, "m", "it runs", function()
      return c:ask("models") and c.states.m.running == 1
    end)
    e:file "tiny.gguf.new"
    rename_over(path, { endless = true })
    local s = c:declare("m", { source = path }) -- the same words, another file
    assert.same({ "draining", 1, "" }, { s.state, s.replacing, s.cause })
    assert.is_true(s.identity ~= first.identity)
    c:send("start", prepared, { max_tokens = 1, ignore_eog = 1 })
    local new = c:prepare("m", "<|im_start|>", 1, { special = 1 })
    assert.equal(OTHER, c:hear(new).n_tokens)
    c:send("start", new, { max_tokens = 1, ignore_eog = 1 })
    local r = c:result(runs)
    assert.same({ 60, ONE }, { r.completion_tokens, r.prompt_tokens })
    for _, id in ipairs { prepared, new } do
      r = c:result(id)
      assert.same({ 1, OTHER }, { r.completion_tokens, r.prompt_tokens }, r.message)
    end
    s = c:until_state("m", "warm")
    assert.same({ 2, 0, "" }, { s.loads, s.replacing, s.cause })
    c:send("start", held, { max_tokens = 1, ignore_eog = 1 })
    assert.equal(OTHER, c:result(held).prompt_tokens)
    c:send("ping", 99999, { nonce = 1 })
    c:hear(99999)
    assert.is_nil(e:log():find("error", 1, true))
  end)

  it("is not taken when it cannot be opened: the old one goes on, and says so", function()
    local e, c, path = rig { device = "delay_ms=10" }
    local first = c:declare("m", { source = path })
    warm(c, "m")
    local id = c:prepare("m", "x")
    c:send("start", id, { max_tokens = 40, ignore_eog = 1 })
    e:file "tiny.gguf.new"
    local f = assert(io.open(path .. ".new", "wb"))
    f:write "GGUF, or not"
    f:close()
    assert(os.rename(path .. ".new", path))
    local s = c:declare("m", { source = path })
    assert.same({ "warm", 0, 1 }, { s.state, s.replacing, s.loads })
    assert.is_true(s.identity == first.identity)
    assert.matches("^the old version goes on; the new one cannot be used: .*tiny.gguf", s.cause)
    assert.is_true(#s.cause < 200)
    assert.equal(40, c:result(id).completion_tokens)
    -- And so when it does not fit.
    local limited = limit(c, s.need + 1000)
    s = c:declare("m", { source = path:gsub("tiny", "big") })
    assert.matches("cannot be used: .*big.gguf: No such file", s.cause)
    tiny.write(e:file "big.gguf", { context = 4096 })
    s = c:declare("m", { source = path:gsub("tiny", "big"), context = 4096 })
    assert.matches("^the old version goes on; the new one cannot be used: it needs %S+ MiB, the device has 3%d%d KiB in all$", s.cause)
    assert.equal(limited.memory, s.need + 1000)
    assert.equal(1, c:generate("m", "x", { max_tokens = 1, ignore_eog = 1 }).completion_tokens)
    -- Mended: it takes its place, and nothing is left to say.
    rename_over(path, { endless = true })
    c:declare("m", { source = path })
    s = c:until_state("m", "warm")
    assert.same({ 2, 0, "" }, { s.loads, s.replacing, s.cause })
  end)

  it("is not kept when it cannot be loaded: the old one is back, from the file that is still open", function()
    local e, c, path = rig { device = "fail_load=2,load_ms=200" }
    local first = c:declare("m", { source = path })
    warm(c, "m")
    e:file "tiny.gguf.new"
    rename_over(path, { endless = true })
    assert.equal(1, c:declare("m", { source = path }).replacing)
    local id = c:prepare("m", "<|im_start|>", 1, { special = 1 })
    assert.equal(OTHER, c:hear(id).n_tokens)
    c:send("start", id, { max_tokens = 1, ignore_eog = 1 })
    local r = c:result(id)
    assert.same({ 1, ONE }, { r.completion_tokens, r.prompt_tokens }, r.message)
    c:ask("models")
    local s = c.states.m
    assert.same({ "warm", 2, 0 }, { s.state, s.loads, s.replacing })
    assert.is_true(s.identity == first.identity)
    assert.equal("the old version is back; the new one cannot be used: fake: load 2 fails, as told", s.cause)
    for _, state in ipairs(c.history) do
      assert.is_true(state.state ~= "failed")
    end
    -- Told anew it tries once more, and this time it loads.
    assert.equal(1, c:declare("m", { source = path }).replacing)
    s = until_state(c, "m", "the new one is warm", function(state)
      return state.state == "warm" and state.replacing == 0
    end)
    assert.same({ 3, "" }, { s.loads, s.cause })
    assert.equal(OTHER, c:generate("m", "<|im_start|>", { max_tokens = 1, ignore_eog = 1 }).prompt_tokens)
  end)

  it("says so when the old one cannot come back, its file having been overwritten in place", function()
    local _, c, path = rig { device = "fail_load=2,load_ms=100" }
    c:declare("m", { source = path })
    warm(c, "m")
    tiny.write(path, { endless = true })
    c:declare("m", { source = path })
    local s = c:until_state("m", "failed")
    assert.matches("tiny.gguf: the file changed while it was in use$", s.reason)
    assert.equal("the old version cannot come back: its file was overwritten in place; the new one cannot be used: fake: load 2 fails, as told",
      s.cause)
    assert.equal(0, s.replacing)
    assert.equal("", warm(c, "m").cause) -- the file that lies there now
    assert.equal(OTHER, c:generate("m", "<|im_start|>", { max_tokens = 1, ignore_eog = 1 }).prompt_tokens)
  end)

  it("says so when the old one goes on although its file was overwritten", function()
    local _, c, path = rig()
    c:declare("m", { source = path })
    warm(c, "m")
    local f = assert(io.open(path, "wb"))
    f:write "no model"
    f:close()
    local s = c:declare("m", { source = path })
    assert.equal("warm", s.state)
    assert.matches("^the old version goes on, until it is unloaded: its file was overwritten in place; the new one cannot be used: ", s.cause)
    assert.equal(1, c:generate("m", "x", { max_tokens = 1, ignore_eog = 1 }).completion_tokens)
  end)

  it("may itself be replaced before it is warm; the last word counts, and the one that worked is what comes back", function()
    local _, c, path = rig { device = "load_ms=300,fail_load=3" }
    local first = c:declare("m", { source = path, context = 200 })
    warm(c, "m")
    c:declare("m", { source = path, context = 100 })
    until_state(c, "m", "the second loads", function(s)
      return s.state == "loading" and s.context == 100
    end)
    local third = c:declare("m", { source = path, context = 50 }) -- load 2 is given up, 3 fails, 4 is the first's
    assert.same({ 1, 50 }, { third.replacing, third.context })
    local s = until_state(c, "m", "the first is back", function(state)
      return state.state == "warm" and state.replacing == 0
    end)
    assert.same({ first.context, 2 }, { s.context, s.loads })
    assert.is_true(s.identity == first.identity)
    assert.matches("^the old version is back", s.cause)
    -- Declared as it is: nothing happens.
    s = c:declare("m", { source = path, context = 200 })
    assert.same({ "warm", 2, 0 }, { s.state, s.loads, s.replacing })
  end)

  it("may be unloaded on its way: then it is cold, and the old one is gone", function()
    local _, c, path = rig { device = "load_ms=60000" }
    c:declare("m", { source = path })
    c:ask("model_load", "m")
    c:until_state("m", "loading")
    local s = c:declare("m", { source = path, context = 100 })
    assert.same({ 1, 100 }, { s.replacing, s.context })
    until_state(c, "m", "the new one loads", function(state)
      return state.state == "loading" and state.context == 100
    end)
    c:ask("model_unload", "m")
    s = c:until_state("m", "cold")
    assert.same({ 100, 0, 0 }, { s.context, s.replacing, s.reserved })
    assert.equal(0, limit(c, 0).reserved)
  end)

  it("is at once there where the old one is not loaded", function()
    local _, c, path = rig()
    c:declare("m", { source = path })
    local id = c:prepare("m", "<|im_start|>", 1, { special = 1 })
    assert.equal(ONE, c:hear(id).n_tokens)
    tiny.write(path, { endless = true })
    local s = c:declare("m", { source = path })
    assert.same({ "cold", 0 }, { s.state, s.replacing })
    c:send("start", id, { max_tokens = 1, ignore_eog = 1 })
    assert.equal(OTHER, c:result(id).prompt_tokens)
  end)

  --- On the CPU device the text tells which version ran; on the scripted one loads take time, and one fails.
  for group, device in pairs { fake = "delay_ms=1,load_ms=30,fail_load=7", cpu = "threads=1" } do
  it("never mixes with the old one, whatever is declared, unloaded and asked at once: " .. group, function()
    local e, c, path = rig { group = group, device = device }
    local seed = tonumber(os.getenv "MOONPOOL_SEED") or os.time()
    math.randomseed(seed)
    local asked, ended, context, done = {}, 0, {}, {}
    local text, parts = {}, {} -- of each version, by the prompt's tokens; of each request so far
    local function take()
      c:read()
      local heard = c.heard
      c.heard = {}
      for _, t in ipairs(heard) do
        local a = asked[t.id]
        if a and t.text then
          parts[t.id] = (parts[t.id] or "") .. t.text
        end
        if a and (t.kind == "done" or t.kind == "error") then
          asked[t.id], ended = nil, ended + 1
          if t.kind == "error" then -- the seventh load fails, and the wish goes with it
            assert.is_true(t.code == "unavailable", ("seed %d: %s"):format(seed, t.message))
          elseif t.finish ~= "cancelled" then
            assert.is_true(t.prompt_tokens == ONE or t.prompt_tokens == OTHER)
            done[t.id] = t.prompt_tokens
            context[t.prompt_tokens] = (context[t.prompt_tokens] or 0) + 1
          end
        end
      end
    end
    tiny.write(e:file "a.gguf")
    tiny.write(e:file "b.gguf", { endless = true })
    e:file "a.gguf.new"
    e:file "b.gguf.new"
    local files = { path:gsub("tiny", "a"), (path:gsub("tiny", "b")) }
    for i, file in ipairs(files) do
      c:declare("alone" .. i, { source = file })
      local id = c:prepare("alone" .. i, "<|im_start|>", 1, { special = 1 })
      c:send("start", id, { max_tokens = 20, ignore_eog = 1 })
      local r = c:result(id)
      text[r.prompt_tokens] = r.text
      c:ask("model_unload", "alone" .. i)
    end
    c:declare("m", { source = files[1] })
    for _ = 1, 600 do
      local what = math.random(100)
      if what <= 50 then
        local id = c:prepare("m", "<|im_start|>", 1, { special = 1 })
        c:send("start", id, { max_tokens = group == "cpu" and 20 or math.random(20), ignore_eog = 1 })
        asked[id] = true
      elseif what <= 54 then
        c:send("model_declare", 1000000, { name = "m", spec = ('{"source":%q}'):format(files[math.random(2)]) })
      elseif what <= 56 then
        c:send("model_unload", 1000001, { name = "m" })
      elseif what <= 60 then
        c:send("model_load", 1000002, { name = "m" })
      elseif what <= 65 and next(asked) then
        c:send("cancel", (next(asked)))
      elseif what <= 67 then -- the same again, but another file: it is opened anew before it is loaded
        local i = math.random(2)
        rename_over(files[i], { endless = i == 2 })
      end
      if math.random() < 0.5 then
        take()
      end
    end
    server.until_true(function()
      local n, s = 0, c:ask("models")
      for _ in pairs(asked) do
        n = n + 1
      end
      return ("seed %d: %d requests do not end; the model is %s, replacing %d, running %d, waiting %d; the log: %s"):format(seed, n, s.state,
        s.replacing, s.running, s.waiting, e:log())
    end, function()
      take()
      return not next(asked)
    end)
    local before
    for _, s in ipairs(c.history) do -- no other way to warm or failed than through loading
      if s.name == "m" and s.state ~= before then
        assert.is_true(s.state ~= "warm" or before == "loading", ("seed %d: %s after %s"):format(seed, s.state, before))
        before = s.state
      end
    end
    print(("seed %d: %d requests ended, %d on one version, %d on the other"):format(seed, ended, context[ONE] or 0, context[OTHER] or 0))
    c:ask("model_unload", "m")
    until_state(c, "m", "nothing is loaded", function(s)
      return s.replacing == 0 and (s.state == "cold" or s.state == "failed")
    end)
    assert.equal(0, limit(c, 0).reserved)
    for id, version in pairs(done) do
      assert.equal(group == "cpu" and text[version] or parts[id], parts[id])
    end
    assert.is_true(group == "fake" or text[ONE] ~= text[OTHER])
  end)
  end
end)
