--- spec/support/json.lua: JSON text to Lua values, read by core/base/json.c, and back. null is json.null.
local C, ffi = require "spec.support.ffi"("core/base/json.h")
local json = { null = setmetatable({}, { __tostring = function() return "null" end }) }

local function value(j, tok)
  if tok == C.MP_JSON_NULL then
    return json.null
  elseif tok == C.MP_JSON_TRUE or tok == C.MP_JSON_FALSE then
    return tok == C.MP_JSON_TRUE
  elseif tok == C.MP_JSON_NUMBER then
    return j.number
  elseif tok == C.MP_JSON_STRING or tok == C.MP_JSON_KEY then
    return ffi.string(j.text, j.len)
  elseif tok == C.MP_JSON_ERROR then
    error(ffi.string(j.err.message), 0)
  end
  local out, finish = {}, tok == C.MP_JSON_ARRAY and C.MP_JSON_ARRAY_END or C.MP_JSON_OBJECT_END
  for item in function() return C.mp_json_next(j) end do
    if item == finish then
      return out
    end
    local v = value(j, item)
    if finish == C.MP_JSON_OBJECT_END then
      out[v] = value(j, C.mp_json_next(j))
    else
      out[#out + 1] = v
    end
  end
end

--- Raises what the reader says when text is not JSON.
function json.decode(text)
  local j = ffi.new "struct mp_json"
  C.mp_json_init(j, text, #text, 0, 0)
  local ok, v = pcall(value, j, C.mp_json_next(j))
  C.mp_json_free(j)
  return ok and v or error(v, 2)
end

--- The values of a file with one on each line.
function json.lines(path)
  local out = {}
  for line in assert(io.open(path)):lines() do
    out[#out + 1] = json.decode(line)
  end
  return out
end

local array = {}
local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

--- Marks a table as an array, so that an empty one is written as [].
function json.array(t)
  return setmetatable(t, array)
end

function json.encode(v)
  if v == json.null then
    return "null"
  elseif type(v) == "string" then
    return '"' .. v:gsub('[%c"\\]', function(c) return escapes[c] or ("\\u%04x"):format(c:byte()) end) .. '"'
  elseif type(v) ~= "table" then
    return type(v) == "number" and ("%.17g"):format(v) or tostring(v)
  end
  local out = {}
  if getmetatable(v) == array or #v > 0 then
    for i, item in ipairs(v) do
      out[i] = json.encode(item)
    end
    return "[" .. table.concat(out, ",") .. "]"
  end
  for key, item in pairs(v) do
    out[#out + 1] = json.encode(tostring(key)) .. ":" .. json.encode(item)
  end
  return "{" .. table.concat(out, ",") .. "}"
end

return json
