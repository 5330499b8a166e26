-- A scale policy of one's own: a burst keeps a model warm for long, a single request does not. The peak of what was asked at once is
-- remembered and halves every minute; while more than a quarter of a request is left of it, the model stays.
--   moonpool serve examples/scale_policy.lua
--   moonpool decisions --follow           # each decision with this policy's reason
local mp = require "moonpool"
local default = require "moonpool.policy.default"

mp.server { policy = "peak" }

mp.policy "peak" {
  scale = function(pool, now, state) -- pure: plain data in, a number and a reason out; `state` comes back at the next call
    local halves = (now - (state.at or now)) / 60
    state.at, state.peak = now, math.max(pool.in_flight + pool.queued, (state.peak or 0) * 0.5 ^ halves)
    if state.peak > 0.25 then
      return math.ceil(state.peak / pool.target_concurrency), ("peak %.1f"):format(state.peak)
    end
    return default.scale(pool, now, state)
  end,
}

local smol = mp.model "smollm2" { source = "smollm2-135m-instruct.gguf", scaledown_window = 5 }

mp.endpoint {
  route = "POST /ask",
  input = { question = { "string", min = 1, max = 500 } },
  handle = function(_, _, input)
    local out = assert(smol:chat { messages = { { role = "user", content = input.question } }, max_tokens = 48 })
    return { answer = out.text }
  end,
}
