--- plugins/openai on the real model: the official Python client, and what goes over the wire.
local server = require "spec.support.server"
local http = require "spec.support.http"
local json = require "spec.support.json"

local python = os.getenv "MOONPOOL_CLIENT_PYTHON"
local weights = server.weights()

local function boot(o)
  o = o or {}
  o.conf = ([[
local mp = require "moonpool"
mp.server { listen = { "127.0.0.1:0" }, workers = 2, use = { "openai" } }
local smol = mp.model "smollm2" { source = %q, alias = { "gpt-4o-mini" }, min_replicas = 1 }
mp.endpoint { route = "GET /models", handle = function() return { smollm2 = smol:status() } end }
]]):format(weights)
  return server.boot(o)
end

describe("the official openai client", function()
  after_each(server.cleanup)

  it("lists, chats, streams with usage, and sees proper errors", function()
    if not python then
      return pending "MOONPOOL_CLIENT_PYTHON names no python with the openai client (./dev test does)"
    elseif not weights then
      return pending "the default model's weights are not there (./dev fetch)"
    end
    local s = boot()
    local pipe = io.popen(("env -u LD_PRELOAD '%s' spec/e2e/openai_client.py '%s' 2>&1"):format(python, s.url))
    local text = pipe:read "*a"
    pipe:close()
    local ok, out = pcall(json.decode, text)
    assert.is_true(ok, text)

    assert.same({ "smollm2" }, out.models)
    assert.equal("smollm2", out.model)

    local chat = out.chat
    assert.same({ "chat.completion", "smollm2", "assistant", 1 }, { chat.object, chat.model, chat.role, chat.choices })
    assert.matches("^chatcmpl%-%x+$", chat.id)
    assert.is_true(#chat.text > 0)
    assert.is_true(chat.usage[1] > 10 and chat.usage[2] > 0 and chat.usage[2] <= 12)
    assert.equal(chat.usage[1] + chat.usage[2], chat.usage[3])
    assert.equal(chat.usage[2] == 12 and "length" or "stop", chat.finish)

    assert.same({ text = chat.text, roles = { "assistant" }, finish = { chat.finish }, usage = chat.usage, ids = 1 }, out.stream)
    assert.equal(chat.text, out.alias)
    assert.same({ chat.text, chat.text, chat.text, chat.text }, out.side_by_side)
    assert.matches("Paris", out.completion.text)
    assert.equal(out.completion.text, out.completion_stream)
    assert.same({ "length", 4 }, { out.completion.finish, out.completion.usage[2] })
    assert.equal(out.seeded[1], out.seeded[2])
    assert.same({ text = chat.text:sub(1, 2), finish = "stop" }, out.stopped)

    for _, name in ipairs { "unknown", "unknown_stream" } do
      assert.same({
        class = "NotFoundError", status = 404, code = "model_not_found", param = json.null, type = "invalid_request_error",
        message = 'the model "gpt-9" does not exist',
      }, out[name])
    end
    assert.same({ "BadRequestError", 400, "temperature" }, { out.hot.class, out.hot.status, out.hot.param })
    assert.same({ "BadRequestError", 400, "tools" }, { out.tools.class, out.tools.status, out.tools.param })
    assert.same({ "BadRequestError", 400, "context_length_exceeded" }, { out.too_long.class, out.too_long.status, out.too_long.code })
    s:stop()
  end)
end)

describe("OpenAI streams on the wire", function()
  after_each(server.cleanup)
  local ask = { model = "smollm2", messages = { { role = "user", content = "Count." } }, stream = true, max_tokens = 6, temperature = 0 }

  it("are events that end with [DONE]", function()
    if not weights then
      return pending "the default model's weights are not there (./dev fetch)"
    end
    local s = boot()
    local c = s:connect()
    for _ = 1, 2 do -- the connection goes on behind a stream
      local r = c:stream { path = "/v1/chat/completions", json = ask }
      assert.equal(200, r.status)
      assert.matches("^text/event%-stream", r.headers["content-type"])
      local events = {}
      for event in r:events() do
        events[#events + 1] = event.data
      end
      assert.equal("[DONE]", events[#events])
      assert.equal("assistant", json.decode(events[1]).choices[1].delta.role)
      assert.same({}, json.decode(events[#events - 1]).choices[1].delta)
    end
    c:close()
  end)

  it("end when the client leaves", function()
    if not weights then
      return pending "the default model's weights are not there (./dev fetch)"
    end
    local s = boot()
    local long = { model = "smollm2", messages = ask.messages, stream = true, temperature = 1, seed = 3, max_tokens = 2000 }
    local c = s:connect()
    local next_event = c:stream({ path = "/v1/chat/completions", json = long }):events()
    assert.is_truthy(next_event() and next_event())
    s:until_state { in_flight = 1 }
    c:reset()
    local left = http.now()
    s:until_state { in_flight = 0 }
    assert.is_true(http.now() - left < 5, "2,000 tokens take longer")
  end)

  it("are refused with 400 for bodies that are not JSON or not UTF-8", function()
    if not weights then
      return pending "the default model's weights are not there (./dev fetch)"
    end
    local s = boot()
    for _, body in ipairs { "{", '{"model":"\255"}', "" } do
      local r = s:request { path = "/v1/chat/completions", body = body, headers = { ["content-type"] = "application/json" } }
      assert.equal(400, r.status)
      assert.equal("invalid_request_error", r:json().error.type)
    end
  end)
end)
