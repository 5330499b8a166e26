-- Zero overnight: warm in working hours by the clock of one place, changes of the clocks included; at other times loaded when asked for.
--   moonpool serve examples/overnight.lua
--   moonpool models                       # the settings in force; `moonpool decisions` says what changed, and why
-- Per key the latest word counts: a schedule from its last tick on, or what `moonpool models scale smollm2 min_replicas=1` asked for
-- after it; what stands in the table itself only until the first tick that sets the same key.
local mp = require "moonpool"

local smol = mp.model "smollm2" {
  source = "smollm2-135m-instruct.gguf",
  min_replicas = 0,
  scaledown_window = "15m",
  schedules = {
    { cron = "0 8 * * 1-5", tz = "Europe/Berlin", set = { min_replicas = 1 } },
    { cron = "30 18 * * 1-5", tz = "Europe/Berlin", set = { min_replicas = 0, scaledown_window = "1m" } },
    { cron = "0 8 * * *", tz = "Europe/Berlin", set = { scaledown_window = "15m" } },
  },
}

mp.endpoint {
  route = "POST /ask",
  input = { question = { "string", min = 1, max = 500 } },
  handle = function(_, _, input)
    local out = assert(smol:chat { messages = { { role = "user", content = input.question } }, max_tokens = 48 })
    return { answer = out.text, start = out.usage.load_seconds > 0 and "cold" or "warm" }
  end,
}
