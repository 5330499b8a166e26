--- A model's places over several workers: what one thread gives back, another one's request gets. Under TSan too.
local server = require "spec.support.server"

if not server.weights() then
  pending "the default model is not there: ./dev fetch, or MOONPOOL_MODELS"
  return
end

describe("four workers that share few places", function()
  after_each(server.cleanup)

  it("answer everybody who stays, whoever leaves, while limits change and the model comes and goes", function()
    local s = server.boot { workers = 4, fake = { delay_ms = 1, load_ms = 30 },
      model = { max_concurrency = 3, scaledown_window = 0.05, queue = { max = 400, timeout = 60 } },
      endpoints = [[
mp.endpoint { route = "POST /places", input = { n = "integer" }, handle = function(_, _, input)
  assert(models.smol:scale { max_concurrency = input.n })
  return { n = input.n }
end }]] }
    local left, answered = 0, 0
    for round = 1, 12 do
      local many = s:many(60, { content = "Hello", max_tokens = 2 + round % 3 })
      local stay = 60
      for i, c in pairs(many.open) do
        if (i * 7 + round) % 3 == 0 then
          c:close()
          many.open[i] = nil
          stay, left = stay - 1, left + 1
        end
        if i % 20 == 0 then
          assert.equal(200, s:request({ path = "/places", json = { n = (i / 20 + round) % 5 + 1 } }).status)
        end
      end
      many:collect(stay, server.PATIENCE)
      assert.same({ [200] = stay }, many:statuses())
      answered = answered + stay
      if round % 3 == 0 then
        s:until_state { state = "cold" }
      end
    end
    assert.same({ 240, 480 }, { left, answered })
    s:until_state { in_flight = 0, waiting = 0 }
  end)

  it("serve in order of arrival, whoever they came to", function()
    local s = server.boot { workers = 4, fake = { delay_ms = 20 * server.slow }, drain = 0.1,
      model = { min_replicas = 1, max_concurrency = 1, queue = { max = 64, timeout = 60 } } }
    local first, stream = s:story { content = "Hello", max_tokens = 1000 }
    s:until_state { in_flight = 1 }
    local calls = {}
    for i = 1, 12 do
      calls[i] = s:many(1, { content = "Hello", max_tokens = 4 })
      s:until_state { waiting = i }
    end
    local events = stream:events()
    for _ = 1, 10 do -- meanwhile all of them are prepared: one that is not is passed
      assert(events())
    end
    first:close()
    local last = 0
    for _, many in ipairs(calls) do
      local r = many:collect(1, server.PATIENCE)[1]
      local started = r.connection.sent + r:json().usage.queue_seconds
      assert.is_true(started > last, "it began before one that came earlier")
      last = started
    end
    assert.is_true(last > 0)
  end)
end)
