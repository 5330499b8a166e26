-- luacheck: no max line length (cases and expected texts stand on one line each)
--- core/script/lua_model.c, lua_stream.c, format.c: models from scripts; the spec plays the engine.
local script = require "spec.support.script"

local MODEL = [[local smol = mp.model "smollm2" { source = "tiny.gguf", alias = { "gpt-4o-mini" }, sampling = { temperature = 0.2, seed = 9 } }
]]

local function app_of(body, opts)
  return script.app(MODEL .. (opts and opts.before or "") .. "\nmp.endpoint { route = 'POST /x', handle = function(req, res) " .. body .. "\nend }", opts)
end

local ASK = "{ messages = { { role = 'user', content = 'hi \\0 é' } } }"

describe("model:chat", function()
  it("sends the messages as JSON and waits for the whole answer", function()
    local app = app_of("local out = assert(smol:chat { messages = { { content = 'hi \\0 é', role = 'user' } }, max_tokens = 48, stop = 'END' }) return out")
    local r = app:request { path = "/x" }
    assert.is_nil(r.ended)
    assert.equal(1, #app.calls)
    local call = app.calls[1]
    assert.equal("smollm2", call.model)
    assert.equal('[{"content":"hi \\u0000 é","role":"user"}]', call.payload)
    assert.equal(48, call.start.max_tokens)
    assert.equal(9, tonumber(call.start.seed))
    assert.near(0.2, call.start.temperature, 1e-6)
    assert.equal(0, call.start.greedy)
    assert.equal(1, call.start.n_stops)
    assert.equal("END", script.ffi.string(call.start.stops[0].p, call.start.stops[0].n))
    call:answer("Wa", "ves")
    assert.equal('{"finish_reason":"stop","text":"Waves","usage":{"completion_tokens":3,"decode_seconds":0.040001,"device_seconds":0.25,"load_seconds":0,"prefill_seconds":0.040001,"prompt_tokens":7,"queue_seconds":0.012346,"ttft_seconds":0.052346}}', r.body)
    app:close()
  end)

  it("overrides the model's sampling field by field; temperature 0 is greedy", function()
    local app = app_of "return smol:chat { messages = req:json(), temperature = 0, top_p = 0.5, top_k = 3, min_p = 0.1, seed = 2^53 }"
    app:request { path = "/x", json = { { role = "user", content = "x" } } }
    local s = app.calls[1].start
    assert.equal(1, s.greedy)
    assert.equal(0.5, s.top_p)
    assert.equal(3, s.top_k)
    assert.near(0.1, s.min_p, 1e-6)
    assert.equal(2 ^ 53, tonumber(s.seed))
    assert.equal(4294967295, s.max_tokens)
    app.calls[1]:answer()
    app:close()
  end)

  it("takes top_p 0, and what a float cannot tell from it, as the likeliest token alone", function()
    for _, top_p in ipairs { "0", "1e-300" } do
      local app = app_of("return smol:chat { messages = req:json(), top_p = " .. top_p .. " }")
      app:request { path = "/x", json = { { role = "user", content = "x" } } }
      assert.same({ 1, 1 }, { app.calls[1].start.top_p, app.calls[1].start.top_k })
      app.calls[1]:answer()
      app:close()
    end
  end)

  it("gives the engine's refusal as nil, err, and the answer its status", function()
    local app = app_of("return smol:chat " .. ASK)
    local r = app:request { path = "/x" }
    app.calls[1]:failed("context_length_exceeded", "the prompt has 9000 tokens, the context 8192")
    assert.equal(400, r.status)
    assert.equal("context_length_exceeded", r:json().error.code)
    r = app:request { path = "/x" }
    app.calls[2]:failed("queue_full", "full", 3)
    assert.equal(429, r.status)
    assert.equal("3", r.headers["retry-after"])
    r = app:request { path = "/x" }
    app.calls[3]:prepared():text("half"):failed("engine_lost", "the engine ended")
    assert.equal(502, r.status)
    app:close()
  end)

  it("refuses arguments out of their range by name, with 400", function()
    for args, expect in pairs {
      ["messages = {}"] = "'messages' must not be empty",
      ["messages = 3"] = "'messages' must be a list of { role = …, content = … }, not a number",
      ["messages = { 3 }"] = "'messages[1]' must be a table, not a number",
      ["messages = { { content = 'x' } }"] = "'messages[1].role' must be a string",
      ["messages = { { role = 'user' } }"] = "'messages[1].content' must be a string",
      ["max_tokens = 3"] = "missing field 'messages'",
      ["messages = { { role = 'u', content = 'x' } }, max_tokens = 0"] = "'max_tokens' must be between 1 and 1048576, not 0",
      ["messages = { { role = 'u', content = 'x' } }, max_tokens = 1.5"] = "'max_tokens' must be a whole number, not 1.5",
      ["messages = { { role = 'u', content = 'x' } }, temperature = 11"] = "'temperature' must be between 0 and 10, not 11",
      ["messages = { { role = 'u', content = 'x' } }, temperature = 'hot'"] = "'temperature' must be a number, not \"hot\"",
      ["messages = { { role = 'u', content = 'x' } }, temperature = 0/0"] = "'temperature' must be a finite number",
      ["messages = { { role = 'u', content = 'x' } }, top_p = -1"] = "'top_p' must be between 0 and 1, not -1",
      ["messages = { { role = 'u', content = 'x' } }, top_k = -1"] = "'top_k' must be between 0 and 1048576, not -1",
      ["messages = { { role = 'u', content = 'x' } }, stop = ''"] = "'stop' must not be empty",
      ["messages = { { role = 'u', content = 'x' } }, stop = { 1 }"] = "'stop[1]' must be a string, not a number",
      ["messages = { { role = 'u', content = 'x' } }, stop = { ('é'):rep(200) }"] = "'stop[1]' must have at most 256 bytes, not 400",
      ["messages = { { role = 'u', content = 'x' } }, stop = {'1','2','3','4','5','6','7','8','9'}"] = "'stop' must have at most 8 items, not 9",
      ["messages = { { role = 'u', content = print } }"] = "'messages[1].content' must be a string",
      ["messages = { { role = 'u', content = 'x', extra = print } }"] = "'messages': [0].extra: a function has no JSON form",
    } do
      local app = app_of("return smol:chat { " .. args .. " }")
      local r = app:request { path = "/x" }
      assert.equal(400, r.status, args)
      assert.equal(expect, r:json().error.message)
      assert.equal(0, #app.calls)
      app:close()
    end
  end)

  it("raises for what is the script's own mistake", function()
    for call, expect in pairs {
      ["smol:chat { mesages = {} }"] = "model:chat: unknown key 'mesages': did you mean 'messages'?",
      ["smol:chat { {} }"] = "model:chat: a value without a key: write messages = { … }",
      ["smol:chat()"] = "model:chat takes a table: model:chat{ messages = … }",
      ["smol.chat { messages = {} }"] = "model:chat: write it with a colon, on a model",
      ["smol:complete { messages = {} }"] = "model:complete: unknown key 'messages'",
      ["smol:embed {}"] = "model:embed is not yet built",
      ["smol:chatt {}"] = "a model has no 'chatt' (it has: name, chat, chat_stream, complete, complete_stream, status, scale)",
    } do
      local app = app_of("local _, e = pcall(function() return " .. call .. " end) return e")
      local r = app:request { path = "/x" }
      assert.equal(expect, r.body:gsub("^.-lua:%d+: ", ""))
      app:close()
    end
  end)

  it("is 503 without an engine", function()
    local app = app_of("return smol:chat " .. ASK, { models = false })
    local r = app:request { path = "/x" }
    assert.equal(503, r.status)
    assert.equal('model "smollm2": there is no engine here', r:json().error.message)
    app:close()
  end)

  it("is cancelled when the client leaves", function()
    local app = app_of("local out, err = smol:chat " .. ASK .. " seen[1] = err.code", {
      before = "local seen = {} mp.endpoint { route = 'GET /seen', handle = function() return seen end }" })
    local r = app:request { path = "/x" }
    app.calls[1]:prepared():text "Wa"
    r:leave()
    assert.is_true(app.calls[1].cancelled)
    assert.is_true(r.ended)
    assert.equal('["closed"]', app:request({ method = "GET", path = "/seen" }).body)
    app:close()
  end)
end)

describe("model:complete", function()
  it("sends text", function()
    local app = app_of "return { (assert(smol:complete { prompt = 'Once\\0upon' })).text }"
    local r = app:request { path = "/x" }
    assert.equal("Once\0upon", app.calls[1].payload)
    app.calls[1]:answer(" a time")
    assert.equal('[" a time"]', r.body)
    app:close()
  end)

  it("refuses an empty prompt", function()
    local app = app_of "return smol:complete { prompt = '' }"
    assert.equal("'prompt' must not be empty", app:request({ path = "/x" }):json().error.message)
    app:close()
  end)
end)

describe("a returned stream", function()
  local app
  after_each(function()
    app:close()
  end)

  it("is pumped in the default format", function()
    app = app_of("return smol:chat_stream " .. ASK)
    local r = app:request { path = "/x" }
    local call = app.calls[1]
    assert.equal(65536, call.start.window)
    call:prepared()
    assert.is_nil(r.status) -- the head waits for the first token: until then an error is a proper answer
    call:text "Wa"
    assert.equal(200, r.status)
    call:text "ves\n":done()
    assert.same({ '{"text":"Wa"}', '{"text":"ves\\n"}',
      '{"done":true,"finish_reason":"stop","usage":{"prompt_tokens":7,"completion_tokens":3,"device_seconds":0.25,"queue_seconds":0.012346,"load_seconds":0,"prefill_seconds":0.040001,"decode_seconds":0.040001,"ttft_seconds":0.052346}}' }, r.events)
    assert.equal("whole", r.finished)
    assert.is_true(r.ended)
    assert.equal(5, call.window - 1) -- "Wa" + "ves\n": all of it given back
  end)

  it("takes status and headers from res", function()
    app = app_of("res:status(201):header('x-a', 'b') return smol:chat_stream " .. ASK)
    local r = app:request { path = "/x" }
    app.calls[1]:answer "x"
    assert.equal(201, r.status)
    assert.equal("b", r.headers["x-a"])
  end)

  it("is an error answer when it fails before the first token, an error event after", function()
    app = app_of("return smol:chat_stream " .. ASK)
    local r = app:request { path = "/x" }
    app.calls[1]:failed("context_length_exceeded", "too long")
    assert.equal(400, r.status)
    assert.is_nil(r.events)
    r = app:request { path = "/x" }
    app.calls[2]:prepared():failed("engine_lost", "the engine ended", 1)
    assert.equal(502, r.status)
    assert.equal("1", r.headers["retry-after"])
    r = app:request { path = "/x" }
    app.calls[3]:prepared():text("a"):failed("engine_lost", "the engine ended")
    assert.equal(200, r.status)
    assert.equal('{"error":{"code":"engine_lost","message":"the engine ended","status":502,"request_id":"req-1"}}', r.events[2])
    assert.equal("whole", r.finished)
  end)

  it("waits for a slow client: the engine gets no room until it reads", function()
    app = app_of("return smol:chat_stream " .. ASK)
    local r = app:request { path = "/x", slow = true }
    local call = app.calls[1]:prepared()
    call:text "ab"
    assert.equal(0, call.window)
    call:text "cd"
    assert.same({ '{"text":"ab"}' }, r.events)
    script.C.mp_exchange_writable(r.x) -- room for one more event
    assert.equal(2, call.window)
    assert.same({ '{"text":"ab"}', '{"text":"cd"}' }, r.events)
    call:done()
    assert.is_nil(r.ended)
    r:writable()
    assert.equal(3, #r.events)
    assert.is_true(r.ended)
  end)

  it("is cancelled when the client leaves", function()
    app = app_of("return smol:chat_stream " .. ASK)
    local r = app:request { path = "/x" }
    app.calls[1]:prepared():text "a"
    r:leave()
    assert.is_true(app.calls[1].cancelled)
    assert.is_true(r.ended)
    assert.is_nil(r.finished)
  end)

  it("may be empty", function()
    app = app_of("return smol:chat_stream " .. ASK)
    local r = app:request { path = "/x" }
    app.calls[1]:prepared():done()
    assert.equal(1, #r.events)
    assert.matches('"done":true', r.events[1])
  end)

  it("is not another request's", function()
    app = app_of("if kept then return kept end kept = assert(smol:chat_stream " .. ASK .. ") return {}", { before = "local kept" })
    app:request { path = "/x" }
    app.calls[1]:prepared()
    local r = app:request { path = "/x" }
    assert.equal(500, r.status)
  end)

  it("names the formats there are", function()
    app = app_of("local s = assert(smol:chat_stream " .. ASK .. ") local _, e = pcall(s.as, s, 'xml') return e")
    local r = app:request { path = "/x" }
    app.calls[1]:prepared()
    assert.matches("^stream:as: no format \"xml\" %(there are: default", r.body)
  end)
end)

describe("a stream whose first token does not come", function()
  local app
  local ffi = require "ffi"
  ffi.cdef "int setenv(const char *name, const char *value, int overwrite); int unsetenv(const char *name);"
  before_each(function()
    ffi.C.setenv("MOONPOOL_DEBUG_SILENCE_MS", "5", 1)
  end)
  after_each(function()
    ffi.C.unsetenv "MOONPOOL_DEBUG_SILENCE_MS"
    app:close()
  end)

  local function until_body(r, pattern)
    for _ = 1, 1000 do
      if (r.body or ""):find(pattern) then
        return
      end
      script.C.mp_evloop_turn(app.loop, true)
    end
    error("no " .. pattern .. " in " .. tostring(r.body))
  end

  it("sends comments, then its events", function()
    app = app_of("return smol:chat_stream " .. ASK)
    local r = app:request { path = "/x" }
    local call = app.calls[1]
    call:prepared()
    assert.is_nil(r.status)
    until_body(r, "^: [^\n]+\n\n: [^\n]+\n\n")
    assert.equal(200, r.status)
    call:text("Wa"):done()
    local comments, events = r.body:match "^(.-)(data: .*)$"
    assert.equal("", (comments:gsub(": [^\n]+\n\n", "")))
    assert.matches('^data: {"text":"Wa"}\n\ndata: {"done":true', events)
    assert.is_true(r.ended)
  end)

  it("keeps the format's own beginning for the first token", function()
    app = app_of("return assert(smol:chat_stream " .. ASK .. "):as 'openai.chat'")
    local r = app:request { path = "/x" }
    app.calls[1]:prepared()
    until_body(r, "^: ")
    assert.same({}, r.events)
    app.calls[1]:text("Wa"):done()
    assert.matches('"delta":{"role":"assistant"', r.events[1])
    assert.matches('"content":"Wa"', r.events[2])
  end)

  it("sends them before the prompt is accepted too", function()
    app = app_of("return smol:chat_stream " .. ASK)
    local r = app:request { path = "/x" }
    until_body(r, "^: ")
    app.calls[1]:prepared():text("Wa"):done()
    assert.is_true(r.ended)
  end)

  it("sends none when a script reads it by hand, and an error stays an answer", function()
    app = app_of("local s = assert(smol:chat_stream " .. ASK .. ") for d in s:deltas() do end return s:result()")
    local r = app:request { path = "/x" }
    for _ = 1, 3 do
      script.C.mp_evloop_turn(app.loop, true)
    end
    app.calls[1]:failed("unavailable", "it does not load", 2)
    assert.same({ 503, "2" }, { r.status, r.headers["retry-after"] })
  end)

  it("fails by an event in its format, with the time to try again", function()
    for i, case in ipairs {
      { "default", '{"error":{"code":"unavailable","message":"it does not load","status":503,"retry_after":3,"request_id":"req-1"}}' },
      { "openai.chat", '{"error":{"message":"it does not load","type":"server_error","param":null,"code":"unavailable","retry_after":3}}' },
    } do
      local format, expect = case[1], case[2]
      if i > 1 then
        app:close()
      end
      app = app_of("return assert(smol:chat_stream " .. ASK .. "):as '" .. format .. "'")
      local r = app:request { path = "/x" }
      app.calls[1]:prepared()
      until_body(r, "^: ")
      app.calls[1]:failed("unavailable", "it does not load", 2.1)
      assert.same({ expect }, r.events)
      assert.equal("whole", r.finished)
    end
  end)

  it("is over when the client leaves", function()
    app = app_of("return smol:chat_stream " .. ASK)
    local r = app:request { path = "/x" }
    app.calls[1]:prepared()
    until_body(r, "^: ")
    r:leave()
    assert.is_true(r.ended)
    assert.is_true(app.calls[1].cancelled)
  end)

  it("ends with an error event when its request's time is over", function()
    app = app_of("return assert(smol:chat_stream " .. ASK .. "):as 'openai.chat'")
    local r = app:request { path = "/x" }
    app.calls[1]:prepared()
    until_body(r, "^: ")
    local err = script.ffi.new "struct mp_err"
    script.C.mp_err_set(err, script.C.MP_ETIMEOUT, "%s", "too slow")
    script.C.mp_exchange_expired(r.x, err)
    assert.matches('"message":"too slow".*"code":"timeout"', r.events[1])
    assert.is_true(r.ended)
    assert.is_true(app.calls[1].cancelled)
  end)
end)

describe("a call's error", function()
  it("does not show where the weights lie", function()
    local app = app_of("return smol:chat " .. ASK)
    local path = script.ffi.string(script.C.mp_generation_config(app.generation).models[0].path)
    local r = app:request { path = "/x" }
    app.calls[1]:failed("unavailable", ("model 'smollm2' cannot be loaded: %s: no such file; again %s"):format(path, path), 4)
    assert.equal("model 'smollm2' cannot be loaded: tiny.gguf: no such file; again tiny.gguf", r:json().error.message)
    assert.equal("4", r.headers["retry-after"])
    app:close()
  end)

  it("is a refusal with a time to try again, whether the pool knows one or not", function()
    local app = app_of("return smol:chat " .. ASK)
    for i, case in ipairs { { "queue_full", 429 }, { "queue_timeout", 503 }, { "deadline", 503 }, { "unavailable", 503 } } do
      local r = app:request { path = "/x" }
      app.calls[i]:failed(case[1], "no")
      assert.same({ case[2], "1" }, { r.status, r.headers["retry-after"] })
    end
    app:close()
  end)
end)

describe("what a run learned from its models", function()
  local function called(r)
    local c = r.x.called
    return { c.model ~= nil and script.ffi.string(c.model), c.cold, c.queue_known, tonumber(c.queue_ns) }
  end

  it("is told to the exchange", function()
    local app = app_of("if req.query.none then return {} end local out = assert(smol:chat " .. ASK .. ") if req.query.twice then smol:chat " .. ASK ..
      " end return out")
    local r = app:request { path = "/x", query = "none=1" }
    assert.same({ false, false, false, 0 }, called(r))
    r = app:request { path = "/x" }
    assert.same({ "smollm2", false, false, 0 }, called(r))
    app.calls[1]:answer "a"
    local once = called(r)
    assert.same({ "smollm2", false, true }, { once[1], once[2], once[3] })
    assert.equal(12345678, once[4])
    r = app:request { path = "/x", query = "twice=1" }
    app.calls[2]:answer "a"
    app.calls[3]:answer "b"
    assert.equal(2 * 12345678, called(r)[4])
    app:close()
  end)

  it("knows a stream's wait with its first token", function()
    local app = app_of("return smol:chat_stream " .. ASK)
    local r = app:request { path = "/x" }
    app.calls[1]:prepared():text "a"
    assert.same({ "smollm2", false, true, 12345678 }, called(r))
    app.calls[1]:done()
    assert.same({ "smollm2", false, true, 12345678 }, called(r))
    app:close()
  end)
end)

describe("a stream by hand", function()
  local app
  after_each(function()
    app:close()
  end)

  it("gives deltas and a result", function()
    app = app_of("local s = assert(smol:chat_stream " .. ASK .. [[) local e = res:events()
      for delta in s:deltas() do if not e:send { text = delta.text:upper() } then return end end
      local done, err = s:result() e:send { usage = done.usage, all = done.text }]])
    local r = app:request { path = "/x" }
    local call = app.calls[1]:prepared()
    assert.equal(200, r.status)
    call:text "wa"
    call:text "ves"
    call:done()
    assert.same({ '{"text":"WA"}', '{"text":"VES"}',
      '{"all":"waves","usage":{"completion_tokens":3,"decode_seconds":0.040001,"device_seconds":0.25,"load_seconds":0,"prefill_seconds":0.040001,"prompt_tokens":7,"queue_seconds":0.012346,"ttft_seconds":0.052346}}' }, r.events)
    assert.equal("whole", r.finished)
  end)

  it("is nil, err when the engine refuses", function()
    app = app_of("local s = assert(smol:chat_stream " .. ASK .. ") res:events()")
    local r = app:request { path = "/x" }
    app.calls[1]:failed("context_length_exceeded", "too long")
    assert.equal(400, r.status)
  end)

  it("ends when the engine is lost: result says why", function()
    app = app_of("local s = assert(smol:chat_stream " .. ASK .. [[) local n = 0
      for delta in s:deltas() do n = n + #delta.text end
      local out, err = s:result() return { n, err.code }]])
    local r = app:request { path = "/x" }
    app.calls[1]:prepared():text "abc":failed("engine_lost", "x")
    assert.equal('[3,"engine_lost"]', r.body)
  end)

  it("can be left to its end for the result alone", function()
    app = app_of("local s = assert(smol:chat_stream " .. ASK .. ") return s:result()")
    local r = app:request { path = "/x" }
    app.calls[1]:answer("a", "b", "c")
    assert.equal("abc", r:json().text)
  end)

  it("gives the engine room as it is read", function()
    app = app_of("local s = assert(smol:chat_stream " .. ASK .. [[) mp.sleep(0.002)
      local n = 0 for d in s:deltas() do n = n + 1 end return { n }]])
    local r = app:request { path = "/x" }
    local call = app.calls[1]:prepared()
    call:text "ab"
    call:text "cd"
    assert.equal(0, call.window)
    while call.window == 0 do
      script.C.mp_evloop_turn(app.loop, true)
    end
    assert.equal(4, call.window)
    call:done()
    assert.equal("[1]", r.body)
  end)

  it("that nobody holds is cancelled", function()
    app = app_of("assert(smol:chat_stream " .. ASK .. ") for i = 1, 50 do local _ = { i } end mp.sleep(60)", { collect = true })
    local r = app:request { path = "/x" }
    app.calls[1]:prepared()
    assert.is_true(app.calls[1].cancelled)
    r:leave()
  end)
end)

describe("mp.models", function()
  it("finds by name and alias", function()
    local app = app_of [[local names = {} for name in pairs(mp.models) do names[#names + 1] = name end
      return { mp.models["smollm2"] == smol, mp.models["gpt-4o-mini"] == smol, mp.models.nothing == nil, smol.name, names }]]
    assert.equal('[true,true,true,"smollm2",["smollm2"]]', app:request({ path = "/x" }).body)
    app:close()
  end)

  it("know their state", function()
    local app = app_of [[local s = smol:status() return { s.state, s.in_flight, s.calls }]]
    assert.equal('["declared",0,0]', app:request({ path = "/x" }).body)
    app:close()
  end)
end)
