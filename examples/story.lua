-- A stream: the handler returns it, C sends the tokens as server-sent events. When the client leaves, the model stops.
--   moonpool serve examples/story.lua
--   curl -N http://127.0.0.1:7171/story -d '{"topic":"a lighthouse"}'
local mp = require "moonpool"

local smol = mp.model "smollm2" { source = "smollm2-135m-instruct.gguf", sampling = { temperature = 0.7 } }

mp.endpoint {
  route = "POST /story",
  input = { topic = "string", max_tokens = { "integer", min = 1, max = 512, default = 128 } },
  handle = function(_, _, input)
    return smol:chat_stream {
      messages = { { role = "user", content = "Tell a short story about " .. input.topic .. "." } },
      max_tokens = input.max_tokens,
    }
  end,
}
