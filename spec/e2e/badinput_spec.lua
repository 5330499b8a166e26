--- Bad input from clients, and clients that leave: each is answered with a status and a text that names what is wrong, and the server
--- goes on.
local server = require "spec.support.server"

if not server.weights() then
  pending "the default model is not there: ./dev fetch, or MOONPOOL_MODELS"
  return
end

local ENDPOINTS = [[
mp.endpoint { route = "POST /throw", handle = function() error "boom" end }
mp.endpoint { route = "POST /typed", input = { topic = { "string", max = 20 }, n = { "integer", default = 1 } },
  handle = function(_, _, input) return { topic = input.topic, n = input.n } end }
mp.endpoint { route = "POST /named", handle = function(req)
  local body = assert(req:json())
  local model, err = mp.models[body.model], nil
  if not model then return mp.reply { status = 404, json = { error = { code = "model_not_found", message = "no model '" .. tostring(body.model) .. "'" } } } end
  return { name = model.name }
end }
]]

for _, mode in ipairs { { name = "plain" }, { name = "one byte at a time", env = { MOONPOOL_DEBUG_READ = 1 } } } do
  describe("bad input, " .. mode.name, function()
    local s
    setup(function()
      s = server.boot { model = { min_replicas = 1, context = 512, alias = { "gpt-4o-mini" } }, fake = { delay_ms = 5 }, endpoints = ENDPOINTS,
        env = mode.env, allow = { "request %x+:.*boom" } }
    end)
    teardown(server.cleanup)
    after_each(function()
      assert.equal(200, s:chat().status) -- it goes on
      s:until_state { in_flight = 0, waiting = 0, running = 0 }
    end)

    local function post(path, body)
      return s:request { path = path, body = body, headers = { ["content-type"] = "application/json" } }
    end

    local function refusal(status, r)
      assert.equal(status, r.status)
      local err = r:json().error
      assert.equal(r.headers["x-request-id"], err.request_id)
      return err
    end

    it("JSON that is none", function()
      for body, why in pairs {
        ['{"content":'] = "line 1, column 12",
        ["{} {}"] = "column 4",
        [""] = "JSON",
        ["{'a':1}"] = "column 2",
      } do
        local err = refusal(400, post("/chat", body))
        assert.is_truthy(err.message:find(why, 1, true), err.message)
      end
    end)

    it("JSON that is nested too deeply", function()
      local err = refusal(400, post("/chat", ("["):rep(100)))
      assert.equal("limit_exceeded", err.code)
      assert.matches("column 65: nested too deeply", err.message)
    end)

    it("bytes that are not UTF-8", function()
      local err = refusal(400, post("/chat", '{"content":"\255\254"}'))
      assert.matches("UTF%-8", err.message)
    end)

    it("fields of the wrong type or out of range", function()
      for body, field in pairs {
        ['{"content":"x","max_tokens":"many"}'] = "max_tokens",
        ['{"content":"x","temperature":-1}'] = "temperature",
        ['{"content":"x","top_p":7}'] = "top_p",
        ['{"content":"x","stop":5}'] = "stop",
        ['{"messages":"hi"}'] = "messages",
        ['{"messages":[{"role":"user","content":5}]}'] = "content",
        ['{"messages":[]}'] = "messages",
      } do
        local r = post("/chat", body)
        assert.is_true(r.status == 400 or r.status == 500, body .. " → " .. r.status)
        assert.is_truthy(r.body:find(field, 1, true), body .. " → " .. r.body)
      end
    end)

    it("input that does not fit its declaration", function()
      assert.matches("topic", refusal(400, post("/typed", "{}")).message)
      assert.matches("topic", refusal(400, post("/typed", '{"topic":"' .. ("x"):rep(21) .. '"}')).message)
      assert.matches("n", refusal(400, post("/typed", '{"topic":"x","n":1.5}')).message)
      assert.equal("x", post("/typed", '{"topic":"x"}'):json().topic)
    end)

    it("a model that is not there; an alias that is", function()
      local r = post("/named", '{"model":"gpt-9"}')
      assert.same({ 404, "no model 'gpt-9'" }, { r.status, r:json().error.message })
      assert.equal("smol", post("/named", '{"model":"gpt-4o-mini"}'):json().name)
    end)

    it("a prompt longer than the context", function()
      local err = refusal(400, post("/chat", '{"content":"' .. ("word "):rep(2000) .. '"}'))
      assert.equal("context_length_exceeded", err.code)
      assert.matches("512", err.message)
    end)

    it("more tokens than the context leaves", function()
      local err = refusal(400, post("/chat", '{"content":"Hello","max_tokens":600}'))
      assert.equal("invalid_argument", err.code)
      assert.matches("^'max_tokens' is 600, but the prompt of %d+ tokens leaves room for %d+ in the context$", err.message)
    end)

    if not mode.env then -- a byte at a time it takes a minute
      it("a body just below its limit: reading it is not held against the script", function()
        if (os.getenv "MOONPOOL_SANITIZE" or "") ~= "" then
          return pending "C takes several times as long under a sanitizer"
        end
        for _, unit in ipairs { "word ", "\\n" } do
          local err = refusal(400, post("/chat", '{"content":"' .. unit:rep(7 * 2 ^ 20 / #unit) .. '"}'))
          assert.equal("context_length_exceeded", err.code)
        end
      end)
    end

    it("a handler that throws", function()
      local err = refusal(500, post("/throw", "{}"))
      assert.equal("script_error", err.code)
      assert.is_nil(err.message:match "boom") -- that is the log's
    end)

    it("a body that is too large", function()
      local r = s:request { path = "/typed", headers = { ["content-length"] = "99999999" }, method = "POST" }
      assert.equal(413, r.status)
    end)

    it("requests for a model sent ahead of the answers: each is answered, in order", function()
      local c, one = s:connect(), {}
      for i = 1, 4 do
        local body = ('{"content":"Hello","max_tokens":%d}'):format(i)
        one[i] = ("POST /chat HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s"):format(#body, body)
      end
      c:send(table.concat(one))
      for i = 1, 4 do
        assert.equal(i, c:response():json().usage.completion_tokens)
      end
      c:close()
    end)

    it("a client that leaves while tokens come: generation ends", function()
      local c, r = s:story { content = "Hello", max_tokens = 400 }
      r:events()()
      s:until_state { in_flight = 1, running = 1 }
      c:close()
      s:until_state { in_flight = 0, running = 0 }
      c, r = s:story { content = "Hello", max_tokens = 400 }
      r:events()()
      c:reset()
      s:until_state { in_flight = 0, running = 0 }
    end)

    it("a client that leaves before the answer", function()
      local c = s:connect()
      local body = '{"content":"Hello","max_tokens":400}'
      c:send(("POST /chat HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s"):format(#body, body))
      s:until_state { in_flight = 1 }
      c:close()
      s:until_state { in_flight = 0, running = 0 }
    end)
  end)
end
