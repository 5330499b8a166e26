-- A first endpoint: JSON in, JSON out.
--   moonpool serve examples/haiku.lua
--   curl -s http://127.0.0.1:7171/haiku -d '{"topic":"the sea"}'
local mp = require "moonpool"

local smol = mp.model "smollm2" { source = "smollm2-135m-instruct.gguf" }

mp.endpoint {
  route = "POST /haiku",
  -- Checked before the handler runs: a wrong field is a 400 that names it.
  input = { topic = { "string", min = 1, max = 200 }, style = { enum = { "haiku", "limerick" }, default = "haiku" } },
  handle = function(_, _, input)
    local ask = ("Write a %s about %s."):format(input.style, input.topic)
    -- assert passes the error on: a full queue answers 429, a lost engine 502, without more code.
    local out = assert(smol:chat { messages = { { role = "user", content = ask } }, max_tokens = 48 })
    return { text = out.text, usage = out.usage } -- a table is the JSON answer
  end,
}
