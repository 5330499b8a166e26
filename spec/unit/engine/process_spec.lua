--- The engine process over its wire: models' states, requests' lives, loads that fail, connections that end, signals.
local engine = require "spec.support.engine"
local server = require "spec.support.server"
local tiny = require "spec.support.tiny"
local _, ffi = require "spec.support.ffi"("core/wire/wire.h")

local function with_model(t, spec)
  local e = engine.start(t)
  local path = e:file "tiny.gguf"
  tiny.write(path)
  local c = e:connect()
  local declared = { source = path, max_concurrency = 8, devices = { t and t.group or "cpu" } }
  for k, v in pairs(spec or {}) do
    declared[k] = v
  end
  return e, c, assert(c:declare("m", declared)), declared
end

describe("an engine process", function()
  after_each(engine.cleanup)

  it("opens a declared model's header, and counts its prompts while it is cold", function()
    local _, c, state = with_model()
    assert.same({ "m", "cold", 256, tiny.n_vocab, "llama", "", 0, 0 },
      { state.name, state.state, state.context, state.n_vocab, state.arch, state.device, state.loads, state.error })
    local t = c:hear(c:prepare("m", "hello"))
    assert.same({ "prepared", 5, 251 }, { t.kind, t.n_tokens, t.left })
    t = c:hear(c:prepare("m", '[{"role":"user","content":"hello"}]', 0))
    assert.same({ "prepared", 24 }, { t.kind, t.n_tokens })
    t = c:hear(c:prepare("m", "\1\0\0\0\2\0\0\0", 2))
    assert.same({ "prepared", 2 }, { t.kind, t.n_tokens })
    assert.equal("cold", c:ask("models", nil).state)
  end)

  it("lets control tokens in only where they are asked for", function()
    local _, c = with_model()
    assert.equal(12, c:hear(c:prepare("m", "<|im_start|>")).n_tokens)
    assert.equal(1, c:hear(c:prepare("m", "<|im_start|>", 1, { special = 1 })).n_tokens)
    local plain = c:hear(c:prepare("m", '[{"role":"user","content":"############"}]', 0)).n_tokens
    assert.equal(plain, c:hear(c:prepare("m", '[{"role":"user","content":"<|im_start|>"}]', 0)).n_tokens)
  end)

  it("loads once for all that wait, and answers", function()
    local _, c = with_model()
    local ids = {}
    for i = 1, 4 do
      ids[i] = c:prepare("m", "prompt " .. i)
      c:send("start", ids[i], { max_tokens = 10, ignore_eog = 1 })
    end
    for i = 1, 4 do
      local r = c:result(ids[i])
      assert.same({ "done", "length", 8, 10 }, { r.kind, r.finish, r.prompt_tokens, r.completion_tokens }, r.message)
      assert.is_true(r.device_ns > 0 and r.prefill_ns <= r.device_ns and r.load_ns > 0 and r.load_ns <= r.queue_ns)
      assert.is_true(r.first_ns >= r.queue_ns and r.total_ns >= r.first_ns)
    end
    local state = c:until_state("m", "warm")
    assert.equal(1, state.loads)
    assert.matches("^cpu: ", state.device)
    assert.is_true(state.memory > 300000 and state.load_ns > 0)
    local seen = {}
    for _, s in ipairs(c.history) do
      seen[s.state] = true
    end
    assert.is_true(seen.cold and seen.loading and seen.warm)
  end)

  it("gives the same text alone and beside others", function()
    local _, c = with_model()
    local alone, ids = {}, {}
    for i = 1, 6 do
      alone[i] = c:generate("m", ("%d: once upon"):format(i), { max_tokens = 40, ignore_eog = 1, seed = i, greedy = i % 2, temperature = 1 }).text
    end
    for i = 1, 6 do
      ids[i] = c:prepare("m", ("%d: once upon"):format(i))
      c:send("start", ids[i], { max_tokens = 40, ignore_eog = 1, seed = i, greedy = i % 2, temperature = 1 })
    end
    for i = 1, 6 do
      assert.equal(alone[i], c:result(ids[i]).text)
    end
  end)

  it("ends at a stop string and says which", function()
    local _, c = with_model()
    local whole = c:generate("m", "hello", { max_tokens = 30, ignore_eog = 1 }).text
    local stop = whole:match "^.-([%w%p][%w%p])" or whole:match "[%w%p]"
    local r = c:generate("m", "hello", { max_tokens = 30, ignore_eog = 1, stops = { "nowhere", stop } })
    assert.same({ "stop", stop }, { r.finish, r.stop })
    assert.equal(whole:sub(1, whole:find(stop, 1, true) - 1), r.text)
  end)

  it("refuses what it cannot do, and says why", function()
    local _, c = with_model()
    local function why(payload, kind, model)
      local t = c:hear(c:prepare(model or "m", payload, kind))
      assert.equal("error", t.kind)
      return { t.code, t.message }
    end
    assert.same({ "not_found", "no model 'x' is declared" }, why("hello", 1, "x"))
    assert.same({ "invalid_argument", "the prompt is empty" }, why ""  )
    assert.same({ "invalid_argument", "the prompt is empty" }, why("", 2))
    assert.same({ "context_length_exceeded", "the prompt has 300 tokens, the model's context holds 256" }, why(("x"):rep(300)))
    assert.same({ "invalid_argument", "token 0 of the prompt is 259: the vocabulary has 259" }, why("\3\1\0\0", 2))
    assert.same({ "invalid_argument", "token ids come in 4 bytes each" }, why("\3\1\0", 2))
    assert.equal("invalid_argument", why("[]", 0)[1])
    assert.equal("bad_format", why("{", 0)[1])
    c:send("start", 99, {})
    local t = c:hear(99)
    assert.same({ "not_found", "request 99 was not prepared, or is over" }, { t.code, t.message })
    local r = c:generate("m", ("x"):rep(256), { max_tokens = 1 })
    assert.same({ "context_length_exceeded", "the prompt has 256 tokens, the model's context holds 256: no room is left for an answer" },
      { r.code, r.message })
    assert.equal("length", c:generate("m", ("x"):rep(256), { max_tokens = 0 }).finish)
    local id = c:prepare("m", "twice")
    assert.equal("prepared", c:hear(id).kind)
    c:send("prepare", id, { model = "m", kind = 1, payload = "twice" })
    assert.same("protocol_error", c:hear(id).code)
  end)

  it("refuses declarations that it does not understand", function()
    local e = engine.start()
    local c = e:connect()
    for spec, expected in pairs {
      ["[1]"] = "the specification: must be a JSON object", ["{"] = "", ['{"context":5}'] = "source: must be given",
      ['{"source":"x","context":0}'] = "context: must be a whole number from 1 to 16777216",
      ['{"source":"x","contexts":1}'] = "unknown key 'contexts'", ['{"source":7}'] = "source: must be a string",
      ['{"source":"x","sha256":"12"}'] = "sha256: must be 64 hex digits",
      ['{"source":"x","numerics":"slow"}'] = "numerics: 'slow' is none of plain, exact, fast",
      ['{"source":"x","kv_type":"f16"}'] = "kv_type: 'f16' is not built yet (f32 is)",
      ['{"source":"x","devices":["cuda"]}'] = "devices: 'cpu' is not among them",
    } do
      local state, _, message = c:declare("m", spec)
      assert.is_nil(state, spec)
      assert.equal("model 'm': " .. expected, message:sub(1, #expected + 11), spec)
    end
    assert.same({ "models_end", 0 }, { c:ask("models").kind, 0 })
  end)

  it("says why a load failed, waits before it tries again, and recovers when the file is mended", function()
    local e = engine.start()
    local path, c = e:file "tiny.gguf", e:connect()
    local state = c:declare("m", { source = path })
    assert.same({ "failed", -4 }, { state.state, state.error })
    assert.matches("cannot open .*tiny.gguf: No such file or directory", state.reason)
    assert.is_true(state.retry_ns > 0 and state.retry_ns <= 1e9)
    local t = c:hear(c:prepare("m", "hello"))
    assert.equal("unavailable", t.code)
    assert.matches("^model 'm' cannot be loaded: .*No such file or directory", t.message)
    assert.is_true(t.retry_ns > 0)
    tiny.write(path)
    server.until_true("it recovers", function()
      t = c:hear(c:prepare("m", "hello"))
      return t.kind == "prepared"
    end)
    assert.equal("length", c:generate("m", "hello", { max_tokens = 2, ignore_eog = 1 }).finish)
  end)

  it("fails a load with the wrong checksum for everyone who waits", function()
    local _, c = with_model(nil, { sha256 = ("0"):rep(64) })
    local a, b = c:prepare("m", "a"), c:prepare("m", "b")
    c:send("start", a, { max_tokens = 1 })
    c:send("start", b, { max_tokens = 1 })
    for _, id in ipairs { a, b } do
      local r = c:result(id)
      assert.equal("unavailable", r.code)
      assert.matches("its sha256 is %x+, declared is 0+$", r.message)
    end
    assert.equal("failed", c:until_state("m", "failed").state)
  end)

  it("takes the scripted device's time to load, tells of it in twenty steps, and fails when told", function()
    local _, c = with_model { group = "fake", device = "load_ms=1500,fail_load=2" }
    c:ask("model_load", "m")
    local warm = c:until_state("m", "warm")
    assert.is_true(warm.load_ns >= 1.5e9)
    local steps, last = 0, -1
    for _, s in ipairs(c.history) do
      if s.state == "loading" and s.total > 0 then
        assert.is_true(s.done >= last and s.done <= s.total)
        steps, last = steps + (s.done > last and 1 or 0), s.done
      end
    end
    assert.is_true(steps >= 15 and steps <= 21, steps .. " steps")
    c:ask("model_unload", "m")
    c:until_state("m", "cold")
    local r = c:generate("m", "x", { max_tokens = 1 })
    assert.same({ "unavailable", "model 'm' cannot be loaded: fake: load 2 fails, as told" }, { r.code, r.message })
  end)

  it("unloads when told, after what runs, and loads again when asked", function()
    local e, c = with_model { group = "fake", device = "delay_ms=2" }
    local id = c:prepare("m", "hello")
    c:send("start", id, { max_tokens = 40, ignore_eog = 1 })
    server.until_true("it runs", function()
      c:read()
      return c.states.m and c.states.m.state == "warm"
    end)
    c:ask("model_unload", "m")
    local late = c:prepare("m", "late")
    c:send("start", late, { max_tokens = 2, ignore_eog = 1 })
    assert.equal(40, c:result(id).completion_tokens)
    assert.equal(2, c:result(late).completion_tokens)
    assert.equal(2, c:until_state("m", "warm").loads)
    c:ask("model_unload", "m")
    local state = c:until_state("m", "cold")
    assert.same({ 0, "" }, { state.memory, state.device })
    assert.is_nil(e:log():find("error", 1, true))
    c:ask("model_load", "m")
    assert.equal(3, c:until_state("m", "warm").loads)
  end)

  it("leaves a model alone that is declared again, and replaces it when it is another", function()
    local _, c, first, spec = with_model()
    c:ask("model_load", "m")
    c:until_state("m", "warm")
    local again = c:declare("m", spec)
    assert.same({ "warm", 1 }, { again.state, again.loads })
    spec.max_concurrency = 3
    assert.equal("warm", c:declare("m", spec).state)
    spec.context = 100
    local other = c:declare("m", spec)
    assert.same({ "draining", 1, 1, 100 }, { other.state, other.replacing, other.loads, other.context })
    assert.is_true(first.identity ~= other.identity)
    assert.equal(1, c:generate("m", "x", { max_tokens = 1, ignore_eog = 1 }).completion_tokens)
    local warm = c:until_state("m", "warm")
    assert.same({ 0, 2, 100, "" }, { warm.replacing, warm.loads, warm.context, warm.cause })
  end)

  it("ends a cancelled request soon, wherever it stands", function()
    local _, c = with_model { group = "fake", device = "delay_ms=5" }
    local id = c:prepare("m", "hello")
    assert.equal("prepared", c:hear(id).kind)
    c:send("cancel", id)
    assert.equal("cancelled", c:hear(id).finish)
    id = c:prepare("m", "hello")
    c:send("start", id, { max_tokens = 200, ignore_eog = 1 })
    while c:hear(id).kind ~= "tokens" do
    end
    c:send("cancel", id)
    local r = c:result(id)
    assert.equal("cancelled", r.finish)
    assert.is_true(r.completion_tokens < 200 and r.device_ns > 0)
    c:send("cancel", id) -- over: no harm
    assert.equal("pong", c:ask("ping").kind)
  end)

  it("cancels what a lost connection left, and counts it down", function()
    local e, c = with_model { group = "fake", device = "delay_ms=5" }
    local other = e:connect()
    for _ = 1, 5 do
      local id = other:prepare("m", "hello")
      other:send("start", id, { max_tokens = 240, ignore_eog = 1 })
      other:hear(id)
    end
    server.until_true("they run", function()
      return c:ask("models").running == 5
    end)
    other:close()
    e.clients = { c }
    server.until_true("they end", function()
      local s = c:ask("models")
      return s.running == 0 and s.waiting == 0
    end)
  end)

  it("stops making text for a reader that does not read", function()
    local _, c = with_model { group = "fake", device = "delay_us=200" }
    local id = c:prepare("m", "hello")
    c:send("start", id, { max_tokens = 240, ignore_eog = 1, window = 20 })
    local got = 0
    repeat
      local t = c:hear(id)
      got = got + #(t.text or "")
    until got > 20
    local fast = c:generate("m", "other", { max_tokens = 100, ignore_eog = 1 })
    assert.equal(100, fast.completion_tokens)
    local function over()
      for _, t in ipairs(c.heard) do
        if t.id == id and t.kind == "done" then
          return t
        end
      end
    end
    assert.is_nil(over())
    local done = server.until_true("it ends", function()
      c:send("window", id, { bytes = 1000 }) -- more than was made does not count ahead
      c:read()
      return over()
    end)
    assert.equal(240, done.completion_tokens)
  end)

  it("answers pings, and closes a connection that does not speak its language", function()
    local e, c = with_model()
    c:send("ping", 7, { nonce = 42 })
    local pong = c:hear(7)
    assert.same({ "pong", 42, 0 }, { pong.kind, pong.nonce, pong.step_ns })
    local bad = e:connect()
    bad:send("done", 1, {})
    assert.same({ "protocol_error", "an engine does not take 'done'" }, { (function()
      local t = bad:hear(1)
      return t.code, t.message
    end)() })
    server.until_true("it is closed", function()
      return not bad:read()
    end)
    assert.equal("prepared", c:hear(c:prepare("m", "hello")).kind)
  end)

  it("stops at SIGTERM, telling whoever waits, exit 0", function()
    local e, c = with_model { group = "fake", device = "delay_ms=5" }
    local id = c:prepare("m", "hello")
    c:send("start", id, { max_tokens = 200, ignore_eog = 1 })
    while c:hear(id).kind ~= "tokens" do
    end
    ffi.C.kill(e.pid, 15)
    local r = c:result(id)
    assert.same({ "unavailable", "the engine is stopping" }, { r.code, r.message })
    assert.same({ code = 0 }, e:wait())
  end)

  it("stops in the middle of a load", function()
    local weights = server.weights()
    if not weights then
      pending "needs the default model (./dev fetch)"
      return
    end
    local e = engine.start { threads = 1 }
    local c = e:connect()
    assert(c:declare("m", { source = weights }))
    assert(c:declare("n", { source = weights, context = 100 }))
    c:ask("model_load", "m")
    c:ask("model_load", "n")
    server.until_true("it loads", function()
      c:read()
      return c.states.m.done > 0 or c.states.m.state == "warm"
    end)
    ffi.C.kill(e.pid, 15)
    assert.same({ code = 0 }, e:wait())
  end)

  it("ends by itself when it has nothing to do, saying goodbye, whoever looks on", function()
    local e, c = with_model { group = "fake", device = "load_ms=300", linger = 0.2 }
    local silent, mute = e:connect(), e:connect() -- one that says hello and no more, one not even that
    silent:read()
    c:ask("model_load", "m")
    c:until_state("m", "warm")
    assert.equal(1, c:generate("m", "x", { max_tokens = 1, ignore_eog = 1 }).completion_tokens)
    for _ = 1, 20 do -- longer than it lingers: each waits a while for something to read
      c:read()
    end
    assert.equal("warm", c:ask("models").state)
    c:ask("model_unload", "m")
    c:until_state("m", "cold")
    assert.same({ code = 0 }, e:wait())
    server.until_true("the other is cut, too", function()
      return not mute:read()
    end)
    for _, client in ipairs { c, silent } do
      local bye = client:hear(0)
      assert.same({ "bye", "idle" }, { bye.kind, bye.reason })
      server.until_true("the connection is over", function()
        return not client:read()
      end)
    end
    assert.matches("nothing to do: ending", e:log())
  end)

  it("is kept up by requests, not by who asks how it is", function()
    local e, c = with_model { group = "fake", device = "delay_ms=20", linger = 0.3 }
    local id = c:prepare("m", "x") -- prepared and not started: the engine owes it something
    c:hear(id)
    local waited = 0
    while waited < 4 do -- more than the time it lingers
      c:send("ping", 1000 + waited, { nonce = waited })
      assert.equal(waited, c:hear(1000 + waited).nonce)
      waited = waited + 1
      for _ = 1, 6 do
        c:read()
      end
    end
    c:send("start", id, { max_tokens = 1, ignore_eog = 1 })
    assert.equal(1, c:result(id).completion_tokens)
    c:ask("model_unload", "m")
    c:until_state("m", "cold")
    local asked, bye = 0, nil
    while not bye do
      asked = asked + 1
      c:send("models", 5000 + asked)
      c:read()
      for _, t in ipairs(c.heard) do
        bye = bye or (t.kind == "bye" and t)
      end
    end
    assert.same({ code = 0 }, e:wait())
  end)

  it("aborts with a clear word when the device hangs", function()
    local e, c = with_model { group = "fake", device = "delay_ms=100000", step_timeout = 0.3 }
    local id = c:prepare("m", "x")
    c:send("start", id, { max_tokens = 1 })
    assert.same({ signal = 6 }, e:wait())
    assert.matches("the device hangs: a step has been under way for %d+%.%d s %(at most 0%.3 s are allowed%); this process aborts", e:log())
  end)

  it("ends when its parent does", function()
    local e = engine.start { parent = true }
    assert.equal("moonpool: engine cpu", server.title(e.pid))
    ffi.C.close(e.parent[1])
    e.parent[1] = -1
    assert.same({ code = 0 }, e:wait())
  end)
end)
