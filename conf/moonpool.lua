-- What `./dev serve` serves: one small model behind OpenAI's API, on this machine only. Edit it while it runs: `moonpool reload` (or
-- `moonpool serve --watch`) brings the change without dropping a request. `moonpool check` judges it; conf/KEYS.md lists every key.
local mp = require "moonpool"

mp.server {
  listen = { "127.0.0.1:7171" }, -- without API keys moonpool refuses to listen beyond loopback
  use = { "openai" }, -- POST /v1/chat/completions, /v1/completions, GET /v1/models
  metrics = true, -- GET /metrics here too, not on the admin socket only
  -- policy = "mine",  -- an mp.policy of yours: who is admitted, scaled, evicted; lua/moonpool/policy/default.lua is there to copy
}

mp.model "smollm2" {
  source = "smollm2-135m-instruct.gguf", -- beside this file, in $MOONPOOL_MODELS, or in models/ (./dev fetch)
  devices = { "cpu" }, -- in order of preference; nothing else is used
  min_replicas = 0, -- 1: loaded at start and kept warm; 0: loaded by the first request
  max_replicas = 1, -- the cost ceiling; 0: requests are refused
  scaledown_window = "5m", -- time without a request after which it goes cold
  target_concurrency = 8, -- requests per replica to scale for
  max_concurrency = 16, -- requests that a replica takes at once
  queue = { max = 64, timeout = 30 }, -- requests that wait for a place, and for how long (seconds; a load does not count)
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
