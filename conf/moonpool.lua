-- What `./dev serve` serves: one small model behind OpenAI's API, on this machine only.
-- `moonpool check conf/moonpool.lua` judges it; conf/KEYS.md lists every key. Keys that stand commented out are not yet built.
local mp = require "moonpool"

mp.server {
  listen = { "127.0.0.1:7171" }, -- without API keys moonpool refuses to listen beyond loopback
  use = { "openai" }, -- POST /v1/chat/completions, /v1/completions, GET /v1/models
  -- workers = 2,                -- threads; default: one per two cores
  -- policy = "default",         -- who is admitted, scaled, evicted: Lua to copy and edit
}

mp.model "smollm2" {
  source = "smollm2-135m-instruct.gguf", -- beside this file, in $MOONPOOL_MODELS, or in models/ (./dev fetch)
  devices = { "cpu" }, -- in order of preference; nothing else is used
  min_replicas = 1, -- loaded at start and kept warm; 0: loaded by the first request
  max_concurrency = 16, -- requests in its batch at once
  -- max_replicas = 1,           -- the cost ceiling
  -- scaledown_window = "5m",    -- idle time after which it goes cold
  -- target_concurrency = 8,     -- requests per replica to scale for
  -- queue = { max = 64, timeout = 30 }, -- requests that wait for a place, and for how long
}

mp.endpoint {
  route = "POST /haiku",
  input = { topic = { "string", min = 1, max = 200 } },
  handle = function(_, _, input)
    local ask = { { role = "user", content = "Write a haiku about " .. input.topic .. "." } }
    local out = assert(mp.models.smollm2:chat { messages = ask, max_tokens = 48 })
    return { haiku = out.text, usage = out.usage }
  end,
}
