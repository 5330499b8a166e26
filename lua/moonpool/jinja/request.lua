--- lua/moonpool/jinja/request.lua: a chat request's JSON as values of moonpool.jinja (none of its strings trusted, dicts in their
--- order), checked. Used by moonpool.jinja.
local V = require "moonpool.jinja.value"
local utf8 = V.utf8

local class, text, is_string, NONE = V.class, V.text, V.is_string, V.NONE
local concat = table.concat

local MAX_MESSAGES, MAX_TOOLS = 2048, 128

local function invalid(...)
  error({ code = "invalid_argument", message = string.format(...) }, 0)
end

-- ---- JSON -----------------------------------------------------------------------------------------------------------

local unescape = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

--- The string whose opening quote stands at `at`.
local function decode_string(src, at)
  local parts, i = {}, at + 1
  while true do
    local stop = src:find('["\\]', i)
    parts[#parts + 1] = src:sub(i, stop - 1)
    if src:sub(stop, stop) == '"' then
      return V.untrusted(concat(parts)), stop + 1
    end
    local e = src:sub(stop + 1, stop + 1)
    if e == "u" then
      local cp = tonumber(src:sub(stop + 2, stop + 5), 16)
      i = stop + 6
      if cp >= 0xd800 and cp < 0xdc00 then
        cp = 0x10000 + (cp - 0xd800) * 1024 + tonumber(src:sub(i + 2, i + 5), 16) - 0xdc00
        i = i + 6
      end
      parts[#parts + 1] = utf8(cp)
    else
      parts[#parts + 1] = unescape[e] or e
      i = stop + 2
    end
  end
end

local words = { ["true"] = true, ["false"] = false, ["null"] = NONE }

--- The value at `at` of text that C has checked, and where it ends.
local function decode(src, at)
  at = src:match("^[ \n\r\t]*()", at)
  local c = src:sub(at, at)
  V.tick()
  if c == '"' then
    return decode_string(src, at)
  elseif c == "{" then
    local out = V.dict()
    at = src:match("^[ \n\r\t]*()", at + 1)
    while src:sub(at, at) ~= "}" do
      local key, value
      key, at = decode_string(src, at)
      value, at = decode(src, src:match("^[ \n\r\t]*:()", at))
      V.dict_set({}, out, key, value)
      at = src:match("^[ \n\r\t]*,?[ \n\r\t]*()", at)
    end
    return out, at + 1
  elseif c == "[" then
    local out, n = {}, 0
    at = src:match("^[ \n\r\t]*()", at + 1)
    while src:sub(at, at) ~= "]" do
      n = n + 1
      out[n], at = decode(src, at)
      at = src:match("^[ \n\r\t]*,?[ \n\r\t]*()", at)
    end
    return V.list(out, n), at + 1
  end
  local word, after = src:match("^([%w+.-]+)()", at)
  if words[word] ~= nil then
    return words[word], after
  end
  return V.parse_number(word), after
end

-- ---- checks ---------------------------------------------------------------------------------------------------------

--- A list of text parts becomes one text, unless the template goes through such lists itself.
local function content_of(v, path, keep_lists)
  if v == nil or v == NONE or is_string(v) then
    return v
  elseif class(v) ~= V.List then
    invalid("%s: must be a string, null or a list of parts", path)
  end
  local parts = {}
  for i = 1, v.n do
    local part, where = v[i], ("%s[%d]"):format(path, i - 1)
    if class(part) ~= V.Dict then
      invalid("%s: must be an object", where)
    end
    local kind = part.vals.type
    if kind == nil or not is_string(kind) then
      invalid("%s.type: must be a string", where)
    elseif text(kind) ~= "text" then
      invalid("%s.type: parts of type '%s' are not supported; only 'text' is", where, text(kind))
    elseif not is_string(part.vals.text) then
      invalid("%s.text: must be a string", where)
    end
    parts[#parts + 1] = i > 1 and V.untrusted "\n" or nil
    parts[#parts + 1] = part.vals.text
  end
  return keep_lists and v or V.join(parts)
end

local function check_message(m, path, keep_lists)
  if class(m) ~= V.Dict then
    invalid("%s: must be an object", path)
  elseif not is_string(m.vals.role) then
    invalid("%s.role: must be a string", path)
  end
  local content = content_of(m.vals.content, path .. ".content", keep_lists)
  if content ~= nil then
    m.vals.content = content
  elseif m.vals.tool_calls == nil then
    invalid("%s.content: is required", path)
  end
  local calls = m.vals.tool_calls
  if calls ~= nil and calls ~= NONE then
    if class(calls) ~= V.List then
      invalid("%s.tool_calls: must be a list", path)
    end
    for i = 1, calls.n do
      if class(calls[i]) ~= V.Dict then
        invalid("%s.tool_calls[%d]: must be an object", path, i - 1)
      end
    end
  end
end

local function check_tools(tools)
  if tools == nil or tools == NONE then
    return
  elseif class(tools) ~= V.List then
    invalid "tools: must be a list"
  elseif tools.n > MAX_TOOLS then
    invalid("tools: %d are too many; the most is %d", tools.n, MAX_TOOLS)
  end
  for i = 1, tools.n do
    if class(tools[i]) ~= V.Dict then
      invalid("tools[%d]: must be an object", i - 1)
    end
  end
end

local own = { messages = true, tools = true, add_generation_prompt = true, bos_token = true, eos_token = true }

local function check_kwargs(kwargs)
  if kwargs == nil or kwargs == NONE then
    return
  elseif class(kwargs) ~= V.Dict then
    invalid "template_kwargs: must be an object"
  end
  for name in pairs(kwargs.vals) do
    if own[name] then
      invalid("template_kwargs.%s: is not for a request to set", name)
    end
  end
end

---@param json string         checked
---@param keep_lists boolean  the template goes through lists of parts itself
---@return table vals  the request's members
return function(json, keep_lists)
  local request = decode(json, 1)
  if class(request) ~= V.Dict then
    invalid "the request must be an object with 'messages'"
  end
  local vals = request.vals
  local messages, generate = vals.messages, vals.add_generation_prompt
  if messages == nil then
    invalid "messages: is required"
  elseif class(messages) ~= V.List then
    invalid "messages: must be a list"
  elseif messages.n == 0 then
    invalid "messages: must hold at least one message"
  elseif messages.n > MAX_MESSAGES then
    invalid("messages: %d are too many; the most is %d", messages.n, MAX_MESSAGES)
  elseif generate ~= nil and generate ~= NONE and type(generate) ~= "boolean" then
    invalid "add_generation_prompt: must be true or false"
  end
  for i = 1, messages.n do
    check_message(messages[i], ("messages[%d]"):format(i - 1), keep_lists)
  end
  check_tools(vals.tools)
  check_kwargs(vals.template_kwargs)
  return vals
end
