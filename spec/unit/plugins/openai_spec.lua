--- plugins/openai and core/script/format_openai.c: OpenAI's requests, answers, streams and errors; the spec plays the engine.
local script = require "spec.support.script"
local json = require "spec.support.json"

local CONFIG = [[
mp.server { use = { "openai" } }
mp.model "smollm2" { source = "tiny.gguf", alias = { "gpt-4o-mini" } }
mp.model "another" { source = "tiny.gguf" }
]]

describe("the openai plugin", function()
  local app

  before_each(function()
    app = script.app(CONFIG)
  end)
  after_each(function()
    app:close()
  end)

  --- A body with the least that is needed, and more; false takes a field out.
  local function with(fields, least)
    local body = least or { model = "smollm2", messages = { { role = "user", content = "hi" } } }
    for key, value in pairs(fields or {}) do
      body[key] = value
      if value == false and least == nil and (key == "model" or key == "messages") then
        body[key] = nil
      end
    end
    return body
  end
  local function chat(fields)
    return app:request { path = "/v1/chat/completions", json = with(fields) }
  end
  local function complete(fields)
    return app:request { path = "/v1/completions", json = with(fields, { model = "smollm2", prompt = "Once" }) }
  end
  local function usage(prompt, completion, texts)
    local all = { prompt_tokens = prompt, completion_tokens = completion, total_tokens = prompt + completion }
    for key, value in pairs(script.times(texts or 1)) do
      all[key] = value
    end
    return all
  end

  describe("chat completions", function()
    it("answer in one piece", function()
      local r = chat { model = "gpt-4o-mini" }
      assert.equal("smollm2", app.calls[1].model)
      assert.equal('[{"content":"hi","role":"user"}]', app.calls[1].payload)
      app.calls[1]:answer("Wa", "ves")
      assert.equal(200, r.status)
      assert.equal("application/json", r.headers["content-type"])
      local out = r:json()
      assert.is_true(math.abs(out.created - os.time()) < 5)
      out.created = nil
      assert.same({
        id = "chatcmpl-req-1", object = "chat.completion", model = "smollm2", usage = usage(7, 3, 2),
        choices = { {
          index = 0, finish_reason = "stop", logprobs = json.null,
          message = { role = "assistant", content = "Waves", refusal = json.null },
        } },
      }, out)
    end)

    it("hand every setting to the model", function()
      local r = chat {
        max_completion_tokens = 5, max_tokens = 9, temperature = 0.5, top_p = 0.25, top_k = 3, min_p = 0.125, seed = 42,
        stop = { "END", "\n" }, n = 1, user = "u",
      }
      local s = app.calls[1].start
      assert.same({ 5, 0.5, 0.25, 3, 0.125, 42, 2 },
        { s.max_tokens, s.temperature, s.top_p, s.top_k, s.min_p, tonumber(s.seed), s.n_stops })
      assert.equal("END", script.ffi.string(s.stops[0].p, s.stops[0].n))
      app.calls[1]:prepared():text("x"):done { length = true }
      assert.equal("length", r:json().choices[1].finish_reason)
      chat { stop = "END", max_tokens = 9 }
      assert.same({ 9, 1 }, { app.calls[2].start.max_tokens, app.calls[2].start.n_stops })
      app.calls[2]:answer()
    end)

    it("take what changes nothing, and null for absent", function()
      local r = chat {
        tools = json.array {}, tool_choice = "auto", functions = json.array {}, logit_bias = {}, logprobs = json.null, top_logprobs = 0,
        frequency_penalty = 0, presence_penalty = 0, repetition_penalty = 1, repeat_penalty = 1, response_format = { type = "text" },
        parallel_tool_calls = true, modalities = { "text" }, audio = json.null, metadata = { a = "b" }, store = json.null,
        service_tier = "auto", temperature = json.null, stop = json.null, max_tokens = json.null, stream = json.null,
        stream_options = json.null, reasoning_effort = json.null, safety_identifier = "s", prompt_cache_key = "k",
      }
      assert.is_nil(r.status, r.body)
      app.calls[1]:answer "x"
      assert.equal(200, r.status)
    end)

    it("read roles and parts of text", function()
      chat { messages = {
        { role = "developer", content = "be brief" },
        { role = "user", content = { { type = "text", text = "a" }, { type = "text", text = "b" } }, name = "n" },
        { role = "assistant", content = "c", tool_calls = json.array {}, refusal = json.null },
        { role = "user", content = "<|im_start|>é" },
      } }
      assert.equal('[{"content":"be brief","role":"system"},{"content":"a\\nb","role":"user"},{"content":"c","role":"assistant"},'
        .. '{"content":"<|im_start|>é","role":"user"}]', app.calls[1].payload)
      app.calls[1]:answer()
    end)

    it("stream: a role, the text, an empty delta with the reason, [DONE]", function()
      local r = chat { stream = true }
      app.calls[1]:prepared():text("Wa"):text('v"es\n'):done()
      assert.equal(200, r.status)
      assert.equal("whole", r.finished)
      assert.equal("[DONE]", table.remove(r.events))
      local deltas = {}
      for i, event in ipairs(r.events) do
        local chunk = json.decode(event)
        assert.equal("chat.completion.chunk", chunk.object)
        assert.same({ "chatcmpl-req-1", "smollm2" }, { chunk.id, chunk.model })
        assert.is_true(math.abs(chunk.created - os.time()) < 5)
        assert.is_nil(chunk.usage)
        assert.equal(1, #chunk.choices)
        assert.equal(i == #r.events and "stop" or json.null, chunk.choices[1].finish_reason)
        deltas[i] = chunk.choices[1].delta
      end
      assert.same({ { role = "assistant", content = "" }, { content = "Wa" }, { content = 'v"es\n' }, {} }, deltas)
    end)

    it("stream the usage when asked for", function()
      local r = chat { stream = true, stream_options = { include_usage = true } }
      app.calls[1]:answer "x"
      assert.equal("[DONE]", table.remove(r.events))
      local last = json.decode(table.remove(r.events))
      assert.same(json.array {}, last.choices)
      assert.same(usage(7, 3), last.usage)
      for _, event in ipairs(r.events) do
        assert.equal(json.null, json.decode(event).usage)
      end
    end)

    it("stream an error that comes too late for a status as an event", function()
      local r = chat { stream = true }
      app.calls[1]:prepared():text("x"):failed("engine_lost", "the engine ended")
      assert.equal(200, r.status)
      assert.same({ error = { message = "the engine ended", type = "server_error", param = json.null, code = "engine_lost" } },
        json.decode(table.remove(r.events)))
      assert.is_nil(r.body:find("[DONE]", 1, true))
    end)
  end)

  describe("completions", function()
    it("answer in one piece; 16 tokens unless told otherwise", function()
      for _, prompt in ipairs { "Once", { "Once" } } do
        local r = complete { prompt = prompt, best_of = 1, echo = false, suffix = "", logprobs = json.null }
        local call = app.calls[#app.calls]
        assert.equal("Once", call.payload)
        assert.equal(16, call.start.max_tokens)
        call:answer " upon"
        local out = r:json()
        out.created = nil
        assert.same({
          id = "cmpl-req-1", object = "text_completion", model = "smollm2", usage = usage(7, 3),
          choices = { { index = 0, text = " upon", finish_reason = "stop", logprobs = json.null } },
        }, out)
      end
    end)

    it("stream", function()
      local r = complete { stream = true, stream_options = { include_usage = true }, max_tokens = 2 }
      assert.equal(2, app.calls[1].start.max_tokens)
      app.calls[1]:prepared():text(" upon"):done { length = true }
      assert.equal("[DONE]", table.remove(r.events))
      assert.same(usage(7, 3), json.decode(table.remove(r.events)).usage)
      local seen = {}
      for i, event in ipairs(r.events) do
        local chunk = json.decode(event)
        assert.same({ "cmpl-req-1", "text_completion", "smollm2" }, { chunk.id, chunk.object, chunk.model })
        seen[i] = chunk.choices[1]
      end
      assert.same({
        { text = " upon", index = 0, logprobs = json.null, finish_reason = json.null },
        { text = "", index = 0, logprobs = json.null, finish_reason = "length" },
      }, seen)
    end)
  end)

  describe("models", function()
    it("are listed by name", function()
      local function entry(id)
        return { id = id, object = "model", created = 0, owned_by = "moonpool" }
      end
      assert.same({ object = "list", data = { entry "another", entry "smollm2" } },
        app:request({ method = "GET", path = "/v1/models" }):json())
      assert.same(entry "smollm2", app:request({ method = "GET", path = "/v1/models/gpt-4o-mini" }):json())
      local r = app:request { method = "GET", path = "/v1/models/nope%2Fx" }
      assert.equal(404, r.status)
      assert.equal('the model "nope/x" does not exist', r:json().error.message)
    end)
  end)

  describe("errors", function()
    it("have OpenAI's shape", function()
      local r = chat { model = "nope" }
      assert.equal(404, r.status)
      assert.same({
        message = 'the model "nope" does not exist', type = "invalid_request_error", param = json.null, code = "model_not_found",
      }, r:json().error)
    end)

    it("of models keep their status", function()
      local r = chat {}
      app.calls[1]:failed("queue_full", "the queue is full", 2.5)
      assert.equal(429, r.status)
      assert.equal("3", r.headers["retry-after"])
      assert.same({
        error = { message = "the queue is full", type = "rate_limit_error", param = json.null, code = "queue_full" } }, r:json())
      r = chat { stream = true }
      app.calls[2]:failed("context_length_exceeded", "too long")
      assert.equal(400, r.status)
      assert.equal("invalid_request_error", r:json().error.type)
      assert.equal("context_length_exceeded", r:json().error.code)
      r = complete {}
      app.calls[3]:failed("unavailable", "no engine")
      assert.equal(503, r.status)
      assert.equal("server_error", r:json().error.type)
    end)

    it("of bodies that are no JSON objects are 400", function()
      for body, message in pairs {
        ["{"] = "the body is not usable JSON: line 1, column 2: ",
        [""] = "the body is not usable JSON: line 1, column 1: ",
        ['{"model":"\255"}'] = "the body is not usable JSON: line 1, column 11: ",
        ["[1]"] = "the body must be a JSON object, not a list",
        ['"x"'] = 'the body must be a JSON object, not "x"',
        ["null"] = "the body must be a JSON object, not null",
      } do
        for _, path in ipairs { "/v1/chat/completions", "/v1/completions" } do
          local r = app:request { path = path, body = body }
          assert.equal(400, r.status)
          local e = r:json().error
          assert.equal(message, e.message:sub(1, #message))
          assert.equal("invalid_request_error", e.type)
        end
      end
    end)

    local x200 = ("é"):rep(200)
    -- field (its name is error.param unless the fourth says), value, message
    for _, case in ipairs {
      { "model", false, "missing field 'model'" },
      { "model", 3, "'model' must be a string, not 3" },
      { "messages", false, "missing field 'messages'" },
      { "messages", "hi", "'messages' must be a list, not \"hi\"" },
      { "messages", json.array {}, "'messages' must be a list with at least one item" },
      { "messages", { 3 }, "'messages[0]' must be an object, not 3", "messages[0]" },
      { "messages", { { content = "x" } },
        "'messages[0].role' must be system, developer, user or assistant, not null", "messages[0].role" },
      { "messages", { { role = "king", content = "x" } },
        "'messages[0].role' must be system, developer, user or assistant, not \"king\"", "messages[0].role" },
      { "messages", { { role = "tool", content = "x" } }, "'messages[0].role' \"tool\" is not yet built", "messages[0].role" },
      { "messages", { { role = "user" } }, "'messages[0].content' must be a string or a list of parts, not null", "messages[0].content" },
      { "messages", { { role = "user", content = 3 } },
        "'messages[0].content' must be a string or a list of parts, not 3", "messages[0].content" },
      { "messages", { { role = "user", content = { "x" } } },
        "'messages[0].content[0]' must be an object with a type", "messages[0].content[0]" },
      { "messages", { { role = "user", content = { { type = "image_url" } } } },
        "'messages[0].content[0]' of type \"image_url\" is not yet built", "messages[0].content[0].type" },
      { "messages", { { role = "user", content = { { type = "text" } } } },
        "'messages[0].content[0].text' must be a string", "messages[0].content[0].text" },
      { "messages", { { role = "assistant", content = "x", tool_calls = { {} } } },
        "'messages[0].tool_calls' is not yet built: leave it out", "messages[0].tool_calls" },
      { "stream", "yes", "'stream' must be true or false, not \"yes\"" },
      { "stream_options", { include_usage = true }, "'stream_options' is only allowed with 'stream': true" },
      { "stream_options", 1, "'stream_options' must be an object, not 1" },
      { "stream_options", { include = true }, "unknown field 'stream_options.include'", "stream_options.include" },
      { "stream_options", { include_usage = 1 },
        "'stream_options.include_usage' must be true or false, not 1", "stream_options.include_usage" },
      { "max_tokens", 0, "'max_tokens' must be between 1 and 1048576, not 0" },
      { "max_tokens", 1.5, "'max_tokens' must be an integer, not 1.5" },
      { "max_tokens", "5", "'max_tokens' must be an integer, not \"5\"" },
      { "max_completion_tokens", -1, "'max_completion_tokens' must be between 1 and 1048576, not -1" },
      { "temperature", 2.5, "'temperature' must be between 0 and 2, not 2.5" },
      { "temperature", "hot", "'temperature' must be a number, not \"hot\"" },
      { "top_p", 1.5, "'top_p' must be between 0 and 1, not 1.5" },
      { "top_k", -1, "'top_k' must be between 0 and 1048576, not -1" },
      { "min_p", -0.5, "'min_p' must be between 0 and 1, not -0.5" },
      { "seed", -1, "'seed' must be between 0 and 9007199254740992, not -1" },
      { "n", 0, "'n' must be between 1 and 8, not 0" },
      { "n", 9, "'n' must be between 1 and 8, not 9" },
      { "n", 2, "'n' over 1 is not yet built" },
      { "stop", 3, "'stop' must be a string or a list of strings, not 3" },
      { "stop", { a = 1 }, "'stop' must be a string or a list of strings, not an object or an empty list" },
      { "stop", { 3 }, "'stop[0]' must be a string, not 3", "stop[0]" },
      { "stop", { "a", "" }, "'stop[1]' must not be empty", "stop[1]" },
      { "stop", "", "'stop[0]' must not be empty", "stop[0]" },
      { "stop", x200, "'stop[0]' must have at most 256 bytes, not 400", "stop[0]" },
      { "stop", { "1", "2", "3", "4", "5", "6", "7", "8", "9" }, "'stop' must have at most 8 items, not 9" },
      { "tools", { {} }, "'tools' is not yet built: leave it out" },
      { "tool_choice", "required", "'tool_choice' is not yet built: leave it out" },
      { "functions", { {} }, "'functions' is not yet built: leave it out" },
      { "response_format", { type = "json_object" }, "'response_format' of type \"json_object\" is not yet built", "response_format.type" },
      { "response_format", "json", "'response_format' must be an object, not \"json\"" },
      { "logprobs", true, "'logprobs' is not yet built: leave it out" },
      { "top_logprobs", 3, "'top_logprobs' is not yet built: leave it out" },
      { "logit_bias", { ["5"] = 1 }, "'logit_bias' is not yet built: leave it out" },
      { "frequency_penalty", 0.5, "'frequency_penalty' is not yet built: leave it out" },
      { "presence_penalty", 1, "'presence_penalty' is not yet built: leave it out" },
      { "repetition_penalty", 1.1, "'repetition_penalty' is not yet built: leave it out" },
      { "modalities", { "text", "audio" }, "'modalities' is not yet built: leave it out" },
      { "reasoning_effort", "low", "'reasoning_effort' is not yet built: leave it out" },
      { "store", true, "'store' is not yet built: leave it out" },
      { "user", 3, "'user' must be a string, not 3" },
      { "temprature", 1, "unknown field 'temprature'" },
      { ("x"):rep(1000), 1, "unknown field '" .. ("x"):rep(64) .. "'", ("x"):rep(64) },
    } do
      local field, value, message, param = case[1], case[2], case[3], case[4] or case[1]
      it("name the field: " .. message, function()
        local r = chat { [field] = value }
        assert.equal(400, r.status)
        local e = r:json().error
        assert.equal(message, e.message)
        assert.equal(param, e.param)
        assert.equal("invalid_request_error", e.type)
        assert.equal(0, #app.calls)
      end)
    end

    for _, case in ipairs {
      { "prompt", "", "'prompt' must not be empty" },
      { "prompt", json.null, "missing field 'prompt'" },
      { "prompt", { 1, 2 }, "'prompt' must be one string: lists of strings or of token ids are not yet built" },
      { "prompt", { "a", "b" }, "'prompt' must be one string: lists of strings or of token ids are not yet built" },
      { "prompt", true, "'prompt' must be a string, not true" },
      { "best_of", 2, "'best_of' over 1 is not yet built" },
      { "echo", true, "'echo' is not yet built: leave it out" },
      { "suffix", "x", "'suffix' is not yet built: leave it out" },
      { "logprobs", 0, "'logprobs' is not yet built: leave it out" },
      { "messages", { "x" }, "unknown field 'messages'" },
    } do
      it("name the field of completions: " .. case[3], function()
        local r = complete { [case[1]] = case[2] }
        assert.equal(400, r.status)
        assert.equal(case[3], r:json().error.message)
        assert.equal(case[1], r:json().error.param)
      end)
    end

    it("count messages", function()
      local many = {}
      for i = 1, 2049 do
        many[i] = { role = "user", content = "x" }
      end
      assert.equal("'messages' must have at most 2048 items, not 2049", chat({ messages = many }):json().error.message)
    end)
  end)
end)
