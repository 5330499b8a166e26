--- The OpenAI API over the declared models: chat completions, completions, models. A field is used, refused by name, or known
--- to change nothing here; none is dropped in silence. Streams are written by C (core/script/format_openai.c).
local mp = require "moonpool"

---@class openai.Problem  what becomes the answer's "error"
---@field status integer
---@field message string
---@field param string?   the field it is about
---@field code string?
---@field retry_after number?  seconds

---@alias openai.Check fun(value: any, name: string): string?, string?  nil when fine, else what is wrong (and where, if deeper)

local MAX_MESSAGES = 2048

---@return nil, openai.Problem
local function invalid(param, message, code)
  return nil, { status = 400, message = message, param = param, code = code }
end

--- The answer for a problem of ours or an error of a model's.
---@param problem openai.Problem
local function answer(problem)
  local status = problem.status or 500
  local kind = status == 429 and "rate_limit_error" or status >= 500 and "server_error" or "invalid_request_error"
  return mp.reply {
    status = status,
    headers = problem.retry_after and { ["retry-after"] = tostring(math.ceil(problem.retry_after)) } or nil,
    json = {
      error = { message = problem.message, type = kind, param = problem.param or mp.null, code = problem.code or mp.null },
    },
  }
end

-- Checks ----------------------------------------------------------------------------------------------------------------

local function show(value)
  if type(value) == "string" then
    return '"' .. (#value > 40 and value:sub(1, 37) .. "..." or value) .. '"'
  elseif type(value) == "table" then
    return #value > 0 and "a list" or "an object or an empty list"
  end
  return value == mp.null and "null" or tostring(value)
end

---@return openai.Check
local function number(min, max, whole)
  return function(value, name)
    if type(value) ~= "number" then
      return ("'%s' must be %s, not %s"):format(name, whole and "an integer" or "a number", show(value))
    elseif whole and value % 1 ~= 0 then
      return ("'%s' must be an integer, not %s"):format(name, show(value))
    elseif not (value >= min and value <= max) then
      return ("'%s' must be between %.16g and %.16g, not %.16g"):format(name, min, max, value)
    end
  end
end

---@return openai.Check
local function of_type(kind, words)
  return function(value, name)
    if type(value) ~= kind then
      return ("'%s' must be %s, not %s"):format(name, words, show(value))
    end
  end
end

local text, boolean, object = of_type("string", "a string"), of_type("boolean", "true or false"), of_type("table", "an object")

--- A field of which only values that change nothing are taken.
---@return openai.Check
local function unbuilt(harmless)
  return function(value, name)
    if not harmless(value) then
      return ("'%s' is not yet built: leave it out"):format(name)
    end
  end
end

local function never()
  return false
end
local function just(...)
  local values = { ... }
  return unbuilt(function(value)
    for _, v in ipairs(values) do
      if v == value then
        return true
      end
    end
    return false
  end)
end
local empty = unbuilt(function(value)
  return type(value) == "table" and next(value) == nil
end)

---@type openai.Check
local function one(value, name)
  return number(1, 8, true)(value, name) or value > 1 and ("'%s' over 1 is not yet built"):format(name) or nil
end

---@type openai.Check
local function stops(value, name)
  if type(value) == "string" then
    value = { value }
  elseif type(value) ~= "table" or next(value) ~= nil and #value == 0 then
    return ("'%s' must be a string or a list of strings, not %s"):format(name, show(value))
  end
  if #value > 8 then
    return ("'%s' must have at most 8 items, not %d"):format(name, #value)
  end
  for i, stop in ipairs(value) do
    local at = ("%s[%d]"):format(name, i - 1)
    if type(stop) ~= "string" then
      return ("'%s' must be a string, not %s"):format(at, show(stop)), at
    elseif stop == "" then
      return ("'%s' must not be empty"):format(at), at
    elseif #stop > 256 then
      return ("'%s' must have at most 256 bytes, not %d"):format(at, #stop), at
    end
  end
end

---@type openai.Check
local function stream_options(value, name)
  if type(value) ~= "table" then
    return object(value, name)
  end
  for key, v in pairs(value) do
    local at = ("%s.%s"):format(name, tostring(key))
    if key ~= "include_usage" and key ~= "include_obfuscation" then
      return ("unknown field '%s'"):format(at), at
    elseif v ~= mp.null and type(v) ~= "boolean" then
      return boolean(v, at), at
    end
  end
end

---@type openai.Check
local function response_format(value, name)
  if type(value) ~= "table" then
    return object(value, name)
  elseif value.type ~= "text" then
    return ("'%s' of type %s is not yet built"):format(name, show(value.type == nil and mp.null or value.type)), name .. ".type"
  end
end

local function merge(a, b)
  for key, value in pairs(a) do
    b[key] = b[key] or value
  end
  return b
end

--- Every field that either API knows, and what it may be. null is as good as absent.
---@type table<string, openai.Check>
local common = {
  model = text,
  stream = boolean,
  stream_options = stream_options,
  max_tokens = number(1, 1048576, true),
  temperature = number(0, 2),
  top_p = number(0, 1),
  seed = number(0, 2 ^ 53, true),
  stop = stops,
  n = one,
  top_k = number(0, 1048576, true), -- ours, as llama-server and vLLM have them
  min_p = number(0, 1),
  user = text, -- labels: no effect on the answer
  metadata = object,
  frequency_penalty = just(0),
  presence_penalty = just(0),
  repetition_penalty = just(1),
  repeat_penalty = just(1),
  logit_bias = empty,
}
local chat_fields = merge(common, {
  messages = of_type("table", "a list"),
  max_completion_tokens = number(1, 1048576, true),
  safety_identifier = text,
  prompt_cache_key = text,
  parallel_tool_calls = boolean, -- says something only with tools
  response_format = response_format,
  tools = empty,
  tool_choice = just("none", "auto"),
  functions = empty,
  function_call = just("none", "auto"),
  logprobs = just(false),
  top_logprobs = just(0),
  modalities = unbuilt(function(value)
    return type(value) == "table" and #value == 1 and value[1] == "text"
  end),
  audio = unbuilt(never),
  prediction = unbuilt(never),
  reasoning_effort = unbuilt(never),
  web_search_options = unbuilt(never),
  verbosity = unbuilt(never),
  service_tier = just("auto", "default"),
  store = just(false),
})
local completion_fields = merge(common, {
  prompt = function() end, -- read by prompt_of
  best_of = one,
  echo = just(false),
  suffix = just "",
  logprobs = unbuilt(never),
})

--- The body, checked field by field, nulls removed.
---@param fields table<string, openai.Check>
---@return table? body, openai.Problem? problem
local function read(req, fields)
  local body, err = req:json()
  if err then
    return invalid(nil, err.message, "invalid_json")
  elseif type(body) ~= "table" or #body > 0 then
    return invalid(nil, ("the body must be a JSON object, not %s"):format(show(body)))
  end
  local given = {}
  for name, value in pairs(body) do
    local check = fields[name]
    if not check then
      name = tostring(name):sub(1, 64)
      return invalid(name, ("unknown field '%s'"):format(name), "unknown_parameter")
    elseif value ~= mp.null then
      local message, at = check(value, name)
      if message then
        return invalid(at or name, message, "invalid_value")
      end
      given[name] = value
    end
  end
  if given.stream_options and not given.stream then
    return invalid("stream_options", "'stream_options' is only allowed with 'stream': true")
  end
  return given
end

---@param body table
local function model_of(body)
  if not body.model then
    return invalid("model", "missing field 'model'", "missing_required_parameter")
  end
  local model = mp.models[body.model]
  if not model then
    return nil, { status = 404, message = ("the model %s does not exist"):format(show(body.model)), code = "model_not_found" }
  end
  return model
end

-- Messages --------------------------------------------------------------------------------------------------------------

local roles = { system = "system", developer = "system", user = "user", assistant = "assistant" }
local later_roles = { tool = true, ["function"] = true }

--- A message's content: a string, or a list of parts of type text, which are joined by line breaks.
---@return string? content, openai.Problem? problem
local function content_of(content, at)
  if type(content) == "string" then
    return content
  elseif type(content) ~= "table" or #content == 0 then
    return invalid(at, ("'%s' must be a string or a list of parts, not %s"):format(at, show(content == nil and mp.null or content)))
  end
  local parts = {}
  for i, part in ipairs(content) do
    local here = ("%s[%d]"):format(at, i - 1)
    if type(part) ~= "table" or type(part.type) ~= "string" then
      return invalid(here, ("'%s' must be an object with a type"):format(here))
    elseif part.type ~= "text" then
      return invalid(here .. ".type", ("'%s' of type %s is not yet built"):format(here, show(part.type)))
    elseif type(part.text) ~= "string" then
      return invalid(here .. ".text", ("'%s.text' must be a string"):format(here))
    end
    parts[i] = part.text
  end
  return table.concat(parts, "\n")
end

---@return { role: string, content: string }[]? messages, openai.Problem? problem
local function messages_of(list)
  if not list then
    return invalid("messages", "missing field 'messages'", "missing_required_parameter")
  elseif #list == 0 then
    return invalid("messages", "'messages' must be a list with at least one item")
  elseif #list > MAX_MESSAGES then
    return invalid("messages", ("'messages' must have at most %d items, not %d"):format(MAX_MESSAGES, #list))
  end
  local messages = {}
  for i, message in ipairs(list) do
    local at = ("messages[%d]"):format(i - 1)
    if type(message) ~= "table" then
      return invalid(at, ("'%s' must be an object, not %s"):format(at, show(message)))
    end
    local role = roles[message.role]
    if not role then
      local word = later_roles[message.role] and "'%s.role' %s is not yet built"
        or "'%s.role' must be system, developer, user or assistant, not %s"
      return invalid(at .. ".role", word:format(at, show(message.role == nil and mp.null or message.role)))
    end
    for _, name in ipairs { "tool_calls", "function_call", "audio", "refusal" } do
      local value = message[name]
      if value ~= nil and value ~= mp.null and not (type(value) == "table" and next(value) == nil) then
        return invalid(at .. "." .. name, ("'%s.%s' is not yet built: leave it out"):format(at, name))
      end
    end
    local content, problem = content_of(message.content, at .. ".content")
    if not content then
      return nil, problem
    end
    messages[i] = { role = role, content = content }
  end
  return messages
end

---@return string? prompt, openai.Problem? problem
local function prompt_of(prompt)
  if prompt == nil then
    return invalid("prompt", "missing field 'prompt'", "missing_required_parameter")
  elseif type(prompt) == "table" and #prompt == 1 then
    prompt = prompt[1]
  end
  if type(prompt) == "table" or type(prompt) == "number" then
    return invalid("prompt", "'prompt' must be one string: lists of strings or of token ids are not yet built")
  elseif type(prompt) ~= "string" then
    return invalid("prompt", ("'prompt' must be a string, not %s"):format(show(prompt)))
  elseif prompt == "" then
    return invalid("prompt", "'prompt' must not be empty")
  end
  return prompt
end

-- Answers ---------------------------------------------------------------------------------------------------------------

--- OpenAI's three counts beside our own times: clients keep members that they do not know.
local function usage_of(usage)
  usage.total_tokens = usage.prompt_tokens + usage.completion_tokens
  return usage
end

--- What both APIs hand to the model.
local function arguments(body)
  return {
    max_tokens = body.max_completion_tokens or body.max_tokens,
    temperature = body.temperature,
    top_p = body.top_p,
    top_k = body.top_k,
    min_p = body.min_p,
    seed = body.seed,
    stop = body.stop,
  }
end

--- Generates and answers. api: what differs between the two.
---@param api { method: string, id: string, object: string, format: string, choice: fun(text: string): table }
local function generate(req, api, model, args, body)
  local id = api.id .. req.id
  if body.stream then
    local stream, err = model[api.method .. "_stream"](model, args)
    if not stream then
      return answer(err)
    end
    local options = body.stream_options
    return stream:as(api.format, { id = id, model = model.name, include_usage = options ~= nil and options.include_usage == true })
  end
  local out, err = model[api.method](model, args)
  if not out then
    return answer(err)
  end
  local choice = api.choice(out.text)
  choice.index, choice.logprobs, choice.finish_reason = 0, mp.null, out.finish_reason
  return {
    id = id,
    object = api.object,
    created = math.floor(mp.time()),
    model = model.name,
    choices = { choice },
    usage = usage_of(out.usage),
  }
end

local chat = {
  method = "chat", id = "chatcmpl-", object = "chat.completion", format = "openai.chat",
  choice = function(content)
    return { message = { role = "assistant", content = content, refusal = mp.null } }
  end,
}
local completion = {
  method = "complete", id = "cmpl-", object = "text_completion", format = "openai.completion",
  choice = function(content)
    return { text = content }
  end,
}

local function chat_completions(req)
  local body, problem = read(req, chat_fields)
  local model, messages
  if body then
    model, problem = model_of(body)
  end
  if model then
    messages, problem = messages_of(body.messages)
  end
  if not messages then
    return answer(problem)
  end
  local args = arguments(body)
  args.messages = messages
  return generate(req, chat, model, args, body)
end

local function completions(req)
  local body, problem = read(req, completion_fields)
  local model, prompt
  if body then
    model, problem = model_of(body)
  end
  if model then
    prompt, problem = prompt_of(body.prompt)
  end
  if not prompt then
    return answer(problem)
  end
  local args = arguments(body)
  args.prompt = prompt
  args.max_tokens = args.max_tokens or 16 -- as OpenAI's
  return generate(req, completion, model, args, body)
end

--- created: when the weights were made is not known.
local function describe(name)
  return { id = name, object = "model", created = 0, owned_by = "moonpool" }
end

local function list_models()
  local names, data = {}, mp.json.array {}
  for name in pairs(mp.models) do
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    data[i] = describe(name)
  end
  return { object = "list", data = data }
end

local function get_model(req)
  local model, problem = model_of { model = req.params.id }
  return model and describe(model.name) or answer(problem)
end

return mp.plugin "openai" {
  version = "1.0.0",
  api = 1,
  routes = {
    { route = "POST /v1/chat/completions", handle = chat_completions },
    { route = "POST /v1/completions", handle = completions },
    { route = "GET /v1/models", handle = list_models },
    { route = "GET /v1/models/{id}", handle = get_model },
  },
}
