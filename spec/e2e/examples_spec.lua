--- The examples about scaling, as they stand, on a real server: only numbers of hours and minutes are made short.
local server = require "spec.support.server"
local cli = require "spec.support.cli"
local json = require "spec.support.json"
local tiny = require "spec.support.tiny"

local weights = os.tmpname()
tiny.write(weights)

teardown(function() os.remove(weights) end)

--- An example's text with replacements, each of which must be in it.
local function example(name, replace)
  local text = server.read_file("examples/" .. name .. ".lua")
  for _, pair in ipairs { { "smollm2-135m-instruct.gguf", weights }, unpack(replace) } do
    local first, last = text:find(pair[1], 1, true)
    assert(first, pair[1] .. " is not in the example")
    text = text:sub(1, first - 1) .. pair[2] .. text:sub(last + 1)
  end
  return text
end

local function boot(name, replace)
  return server.boot {
    conf = example(name, replace), args = { "--listen", "127.0.0.1:0", "--engine-linger", "0.3" }, env = { MOONPOOL_DEVICE_CPU = "threads=1" },
  }
end

local function settings(s)
  local model = cli.run(s, "models", "--json"):json()
  model = (model.models or model)[1]
  return model.settings, model.state
end

local function decisions(s, kind)
  local out = {}
  for line in cli.run(s, "decisions", "--json", "--after", "0").out:gmatch "[^\n]+" do
    local d = json.decode(line)
    if d.kind == kind then
      out[#out + 1] = d
    end
  end
  return out
end

describe("examples/overnight.lua", function()
  after_each(server.cleanup)
  local EVERY_MINUTE, LONG_AGO = "* * * * *", "0 0 1 1 *"

  it("is warm in working hours, before anyone asks", function()
    local s = boot("overnight", { { "0 8 * * 1-5", EVERY_MINUTE }, { "30 18 * * 1-5", LONG_AGO }, { "0 8 * * *", EVERY_MINUTE } })
    local set, state = settings(s)
    assert.same({ 1, 900, "warm" }, { set.min_replicas.value, set.scaledown_window.value, state })
    local r = s:request { path = "/ask", json = { question = "Why?" } }
    assert.same({ 200, "warm" }, { r.status, r:json().start })
  end)

  it("goes to zero at night, comes when asked, and obeys whoever asks for more", function()
    local s = boot("overnight", { { "0 8 * * 1-5", LONG_AGO }, { "30 18 * * 1-5", EVERY_MINUTE }, { "0 8 * * *", LONG_AGO } })
    local set, state = settings(s)
    assert.same({ 0, 60, "cold" }, { set.min_replicas.value, set.scaledown_window.value, state })
    s:until_no "engine cpu"
    local r = s:request { path = "/ask", json = { question = "Why?" } }
    assert.same({ 200, "cold" }, { r.status, r:json().start })
    assert.equal(0, cli.run(s, "models", "scale", "smollm2", "scaledown_window=0.1").code)
    s:until_no "engine cpu"
  end)
end)

describe("examples/scale_policy.lua", function()
  after_each(server.cleanup)

  it("keeps a model after a burst, longer than scaledown_window, and lets it go when the peak has faded", function()
    local s = boot("scale_policy", { { "/ 60", "/ 1" }, { "scaledown_window = 5", "scaledown_window = 0.1" } })
    local many = {}
    for i = 1, 8 do
      many[i] = s:connect()
      many[i]:send(('POST /ask HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s'):format(#'{"question":"Why?"}', '{"question":"Why?"}'))
    end
    for i = 1, 8 do
      assert.equal(200, many[i]:response().status)
    end
    s:until_line "draining %-> cold"
    local reasons, all = {}, decisions(s, "scale")
    for _, d in ipairs(all) do
      reasons[#reasons + 1] = d.reason
      assert.equal("peak", d.policy)
      assert.is_nil(d.fallback)
    end
    local text = table.concat(reasons, "; ")
    assert.matches("peak [2-8]%.%d; .*peak [01]%.%d; .*idle", text)
    assert.equal("0", all[#all].decision)
  end)
end)
