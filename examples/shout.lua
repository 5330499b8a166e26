-- Events by hand: every piece of text passes through Lua. send() waits while the client is slow, and says when it has left.
--   moonpool serve examples/shout.lua
--   curl -N http://127.0.0.1:7171/shout -d '{"text":"Name three rivers."}'
local mp = require "moonpool"

local smol = mp.model "smollm2" { source = "smollm2-135m-instruct.gguf" }

mp.endpoint {
  route = "POST /shout",
  input = { text = { "string", min = 1, max = 2000 } },
  handle = function(_, res, input)
    local stream = assert(smol:chat_stream { messages = { { role = "user", content = input.text } }, max_tokens = 96 })
    local events = res:events()
    for delta in stream:deltas() do
      if not events:send { text = delta.text:upper() } then
        return -- the client has left; the model stops by itself
      end
    end
    local done, err = stream:result() -- behind the 200 an error can only be an event
    events:send(done and { done = true, usage = done.usage } or { error = { code = err.code, message = err.message } })
  end,
}
