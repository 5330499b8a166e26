--- examples/: each one loads and answers. The spec plays the engine; spec/e2e runs them with the real one.
local script = require "spec.support.script"

local function example(name)
  local f = assert(io.open("examples/" .. name .. ".lua"))
  local source = f:read "*a"
  f:close()
  return script.app(source, { raw = true, files = { ["conf/smollm2-135m-instruct.gguf"] = "GGUF" } })
end

local app
after_each(function()
  app:close()
end)

describe("examples", function()
  it("haiku", function()
    app = example "haiku"
    local r = app:request { path = "/haiku", json = { topic = "sea", style = "limerick" } }
    assert.equal('[{"content":"Write a limerick about sea.","role":"user"}]', app.calls[1].payload)
    app.calls[1]:answer "Waves"
    assert.equal("Waves", r:json().text)
    assert.equal(3, r:json().usage.completion_tokens)
    assert.equal("topic", app:request({ path = "/haiku", json = {} }):json().error.param)
  end)

  it("story", function()
    app = example "story"
    local r = app:request { path = "/story", json = { topic = "a lighthouse" } }
    assert.equal(128, app.calls[1].start.max_tokens)
    app.calls[1]:answer("Once", " upon")
    assert.same({ '{"text":"Once"}', '{"text":" upon"}' }, { r.events[1], r.events[2] })
    assert.equal("whole", r.finished)
  end)

  it("shout", function()
    app = example "shout"
    local r = app:request { path = "/shout", json = { text = "hi" } }
    app.calls[1]:answer "rhine"
    assert.equal('{"text":"RHINE"}', r.events[1])
    assert.matches('^{"done":true,"usage":', r.events[2])
    r = app:request { path = "/shout", json = { text = "hi" } }
    app.calls[2]:prepared():failed("engine_lost", "gone")
    assert.equal('{"error":{"code":"engine_lost","message":"gone"}}', r.events[1])
    r = app:request { path = "/shout", json = { text = "hi" }, slow = true }
    app.calls[3]:prepared():text "a"
    r:leave()
    assert.is_true(app.calls[3].cancelled)
  end)

  it("vote", function()
    app = example "vote"
    local r = app:request { path = "/vote", json = { text = "A delight." } }
    assert.equal(2, #app.calls)
    local mood = app.calls[1].payload:match "positive" and 1 or 2
    app.calls[3 - mood]:answer "Film"
    app.calls[mood]:answer "Positive"
    assert.equal(201, r.status)
    assert.equal("2", r.headers["x-votes"])
    assert.same({ mood = "Positive", topic = "Film" }, r:json())
    r = app:request { path = "/vote", json = { text = "x" } }
    app.calls[3]:failed("queue_full", "full", 1)
    assert.equal(429, r.status)
    assert.is_true(app.calls[4].cancelled)
  end)

  it("plugin", function()
    app = example "plugin"
    local r = app:request { method = "GET", path = "/hello/moon" }
    assert.equal(403, r.status)
    assert.equal("say the word", r:json().error.message)
    r = app:request { method = "GET", path = "/hello/moon", headers = { { "x-secret", "open sesame" } } }
    assert.equal("hello moon\n", r.body)
    assert.matches("^0%.%d+$", r.headers["x-seconds"])
  end)
end)

describe("conf/moonpool.lua", function()
  it("loads, and answers", function()
    local f = assert(io.open "conf/moonpool.lua")
    local source = f:read "*a"
    f:close()
    app = script.app(source, { raw = true, files = { ["conf/smollm2-135m-instruct.gguf"] = "GGUF" } })
    local r = app:request { path = "/haiku", json = { topic = "sea" } }
    app.calls[1]:answer "Waves"
    assert.equal("Waves", r:json().haiku)
    r = app:request { method = "GET", path = "/v1/models" }
    assert.equal(200, r.status)
    assert.equal("smollm2", r:json().data[1].id)
  end)

  it("has a line for each setting of its model, to be edited", function()
    local f = assert(io.open "conf/moonpool.lua")
    local source = f:read "*a"
    f:close()
    for _, edit in ipairs { { "min_replicas", "0", "1" }, { "max_replicas", "1", "0" }, { "scaledown_window", '"5m"', "2" },
      { "target_concurrency", "8", "4" }, { "max_concurrency", "16", "32" }, { "queue", "{ max = 64, timeout = 30 }", "{ max = 8 }" } } do
      local edited, n = source:gsub("\n  " .. edit[1] .. " = " .. edit[2]:gsub("%p", "%%%0") .. ",", "\n  " .. edit[1] .. " = " .. edit[3] .. ",")
      assert.same({ edit[1], 1 }, { edit[1], n })
      assert.equal("", script.problems(edited, { raw = true, files = { ["conf/smollm2-135m-instruct.gguf"] = "GGUF" } }))
    end
    app = script.app ""
  end)
end)
