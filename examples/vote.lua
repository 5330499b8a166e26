-- Side by side: two questions at once, in one batch of the model. The first failure cancels the other.
--   moonpool serve examples/vote.lua
--   curl -s http://127.0.0.1:7171/vote -d '{"text":"The film was a delight."}'
local mp = require "moonpool"

local smol = mp.model "smollm2" { source = "smollm2-135m-instruct.gguf", sampling = { temperature = 0 } }

local function ask(question, text)
  return function()
    return smol:chat { messages = { { role = "user", content = question .. "\n\n" .. text } }, max_tokens = 8 }
  end
end

mp.endpoint {
  route = "POST /vote",
  input = { text = { "string", min = 1, max = 2000 } },
  handle = function(_, _, input)
    local answers, err = mp.all {
      mood = ask("Is this text positive or negative? Answer in one word.", input.text),
      topic = ask("What is this text about? Answer in one word.", input.text),
    }
    if not answers then
      return nil, err
    end
    return mp.reply {
      status = 201,
      headers = { ["x-votes"] = 2 },
      json = { mood = answers.mood.text, topic = answers.topic.text },
    }
  end,
}
