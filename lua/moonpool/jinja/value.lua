--- lua/moonpool/jinja/value.lua: what a template computes with, as Python would. Used by the rest of moonpool.jinja.
---
--- string   a Lua string (every byte trusted), or Str { s, m }: text, and a mask of the same length with "\1" for trusted bytes
---          (the template's own) and "\0" for others (the request's)
--- number   a Lua number: an int where whole, else a float; or Num { v, float, s }: a whole float (1.0), or an int beyond 2^53,
---          whose digits are s
--- list     List { n, … }; a tuple has `tuple`, a range has `shown`
--- dict     Dict { keys, vals, names }: keys in order as they were given, vals and names by comparable key
--- others   true, false, NONE, Undef { why }, Space { … } (namespaces, loop), functions (ctx, args, named), Macro
local V = {}

local floor, abs, huge, concat, fmt = math.floor, math.abs, math.huge, table.concat, string.format
local type, getmetatable, setmetatable, error, tonumber = type, getmetatable, setmetatable, error, tonumber

local Str, Num, List, Dict, Undef, Space, Macro = {}, {}, {}, {}, {}, {}, {}
V.Str, V.Num, V.List, V.Dict, V.Undef, V.Space, V.Macro = Str, Num, List, Dict, Undef, Space, Macro
local NONE = setmetatable({}, { __metatable = "None" })
V.NONE = NONE
local EXACT = 2 ^ 53

-- ---- limits of the rendering under way ------------------------------------------------------------------------------

local state = { steps = huge, output = huge, depth = huge }
V.state = state

--- Counts n steps.
function V.tick(n)
  state.steps = state.steps - (n or 1)
  if state.steps < 0 then
    error({ code = "limit_exceeded", message = "the chat template takes too many steps" }, 0)
  end
end
local tick = V.tick

function V.too_long()
  error({ code = "limit_exceeded", message = "the chat template makes too long a text" }, 0)
end

--- Raises an error that says in which line of the template it came up.
function V.oops(ctx, format, ...)
  error({ code = "script_error", message = fmt("chat template, line %d: " .. format, ctx.line or 0, ...) }, 0)
end
local oops = V.oops

-- ---- strings --------------------------------------------------------------------------------------------------------

local function class(v)
  return type(v) == "table" and getmetatable(v) or nil
end
V.class = class

local function make(s, m)
  return s == "" and "" or setmetatable({ s = s, m = m }, Str)
end
V.make = make

function V.untrusted(s)
  tick(floor(#s / 64))
  return make(s, ("\0"):rep(#s))
end
local untrusted = V.untrusted

function V.is_string(v)
  return type(v) == "string" or class(v) == Str
end
local is_string = V.is_string

function V.text(v)
  return type(v) == "string" and v or v.s
end
local text = V.text

function V.mask(v)
  return type(v) == "string" and ("\1"):rep(#v) or v.m
end
local mask = V.mask

--- Bytes i to j.
function V.sub(v, i, j)
  if type(v) == "string" then
    return v:sub(i, j)
  end
  return make(v.s:sub(i, j), v.m:sub(i, j))
end
local sub = V.sub

--- The parts one behind the other, each byte with its trust.
function V.join(parts)
  local plain, bytes = true, 0
  for i = 1, #parts do
    plain = plain and type(parts[i]) == "string"
    bytes = bytes + #text(parts[i])
  end
  tick(floor(bytes / 64) + #parts)
  if bytes > state.output then
    V.too_long()
  end
  if plain then
    return concat(parts)
  end
  local s, m = {}, {}
  for i = 1, #parts do
    s[i], m[i] = text(parts[i]), mask(parts[i])
  end
  return make(concat(s), concat(m))
end

function V.ascii(s)
  return not s:find "[\128-\255]"
end

--- Where each character begins, and one position more: Python counts characters.
function V.characters(s)
  tick(floor(#s / 8))
  local starts, n = {}, 0
  for at in s:gmatch "()[%z\1-\127\192-\255]" do
    n = n + 1
    starts[n] = at
  end
  starts[n + 1] = #s + 1
  return starts, n
end

--- The characters of a string, as strings with their trust.
function V.split_characters(v)
  local starts, n = V.characters(text(v))
  local out = {}
  for i = 1, n do
    out[i] = sub(v, starts[i], starts[i + 1] - 1)
  end
  return out, n
end

-- ---- numbers --------------------------------------------------------------------------------------------------------

--- The Python number with this value.
function V.number(v, float)
  if v ~= v or v == huge or v == -huge then
    return setmetatable({ v = v, float = true }, Num)
  elseif v ~= floor(v) then
    return v
  elseif float then
    return setmetatable({ v = v, float = true }, Num)
  elseif abs(v) > EXACT then
    return setmetatable({ v = v, float = false, s = fmt("%.0f", v) }, Num)
  end
  return v
end

--- A number as it is written: "12", "1.5", "1e3".
function V.parse_number(s)
  local v = tonumber(s)
  if s:find "[.eE]" then
    return V.number(v, true)
  elseif abs(v) >= EXACT then
    return setmetatable({ v = v, float = false, s = s }, Num)
  end
  return v
end

--- The Lua number behind a number or boolean, and whether it is a float; nil for anything else.
function V.num(v)
  if type(v) == "number" then
    return v, v ~= floor(v)
  elseif v == true then
    return 1, false
  elseif v == false then
    return 0, false
  elseif class(v) == Num then
    return v.v, v.float
  end
end
local num = V.num

function V.is_number(v)
  return type(v) == "number" or class(v) == Num
end
local is_number = V.is_number

--- The shortest digits that read back equal, in Python's form.
local function float_text(v)
  if v ~= v then
    return "nan"
  elseif v == huge or v == -huge then
    return v > 0 and "inf" or "-inf"
  end
  local s
  for digits = 0, 16 do
    s = fmt("%." .. digits .. "e", v)
    if tonumber(s) == v then
      break
    end
  end
  local sign, first, rest, exponent = s:match "^(-?)(%d)%.?(%d*)e([+-]%d+)$"
  local digits, e = first .. rest, tonumber(exponent)
  if e < -4 or e >= 16 then
    return sign .. first .. (rest ~= "" and "." .. rest or "") .. fmt("e%s%02d", e < 0 and "-" or "+", abs(e))
  elseif e < 0 then
    return sign .. "0." .. ("0"):rep(-e - 1) .. digits
  elseif #digits <= e + 1 then
    return sign .. digits .. ("0"):rep(e + 1 - #digits) .. ".0"
  end
  return sign .. digits:sub(1, e + 1) .. "." .. digits:sub(e + 2)
end

function V.number_text(v)
  if type(v) == "number" then
    return v == floor(v) and fmt("%d", v) or float_text(v)
  end
  return v.float and float_text(v.v) or v.s
end
local number_text = V.number_text

-- ---- lists and dicts ------------------------------------------------------------------------------------------------

function V.list(items, n)
  items.n = n or #items
  return setmetatable(items, List)
end
local list = V.list

function V.tuple(items, n)
  items.tuple = true
  return list(items, n)
end

function V.dict()
  return setmetatable({ keys = {}, vals = {} }, Dict)
end

--- What tells keys apart: 1, 1.0 and True are one key.
local function comparable(ctx, k)
  if is_string(k) then
    return text(k)
  end
  local v = num(k)
  if v then
    return v
  elseif k == NONE or type(k) == "function" then
    return k
  elseif class(k) == List and k.tuple then
    return "\0" .. V.repr(k)
  end
  oops(ctx, "%s cannot be a dict's key", V.kind(k))
end

--- A later value replaces an earlier one; the first spelling of the key stays, with its trust.
function V.dict_set(ctx, d, k, v)
  local key = comparable(ctx, k)
  if d.vals[key] == nil then
    d.keys[#d.keys + 1] = k
  end
  d.vals[key] = v
end

function V.dict_get(ctx, d, k)
  return d.vals[comparable(ctx, k)]
end
local dict_get = V.dict_get

function V.undefined(why)
  return setmetatable({ why = why }, Undef)
end

--- What people call it in errors.
function V.kind(v)
  local c = class(v)
  if is_string(v) then
    return "a string"
  elseif is_number(v) then
    return "a number"
  elseif type(v) == "boolean" then
    return "a boolean"
  elseif v == NONE then
    return "none"
  elseif c == List then
    return v.tuple and "a tuple" or "a list"
  elseif c == Dict then
    return "a dict"
  elseif c == Undef then
    return "an undefined value (" .. v.why .. ")"
  elseif c == Space then
    return "a namespace"
  end
  return "a function"
end

-- ---- Python's bool, len, iter, in, ==, < ----------------------------------------------------------------------------

function V.truthy(v)
  if type(v) == "boolean" then
    return v
  elseif type(v) == "number" then
    return v ~= 0
  elseif type(v) == "string" then
    return v ~= ""
  end
  local c = class(v)
  if c == Undef or v == NONE then
    return false
  elseif c == List then
    return v.n > 0
  elseif c == Dict then
    return #v.keys > 0
  elseif c == Num then
    return v.v ~= 0
  end
  return true
end

function V.length(ctx, v)
  local c = class(v)
  if is_string(v) then
    local s = text(v)
    if V.ascii(s) then
      return #s
    end
    local _, n = V.characters(s)
    return n
  elseif c == List then
    return v.n
  elseif c == Dict then
    return #v.keys
  elseif c == Undef then
    return 0
  end
  oops(ctx, "%s has no length", V.kind(v))
end

--- What a for loop goes through, as a List.
function V.items_of(ctx, v)
  local c = class(v)
  if c == List then
    return v
  elseif c == Dict then
    local out = {}
    for i, k in ipairs(v.keys) do
      out[i] = k
    end
    tick(#out)
    return list(out)
  elseif c == Undef then
    return list {}
  elseif is_string(v) then
    return list(V.split_characters(v))
  end
  oops(ctx, "%s cannot be looped over", V.kind(v))
end

local function equal(a, b)
  tick()
  if is_string(a) and is_string(b) then
    return text(a) == text(b)
  end
  local na, nb = num(a), num(b)
  if na and nb then
    return na == nb and (class(a) ~= Num or class(b) ~= Num or a.s == b.s)
  end
  local ca, cb = class(a), class(b)
  if ca == Undef or cb == Undef then
    return ca == cb
  elseif ca == List and cb == List then
    if a.n ~= b.n or a.tuple ~= b.tuple then
      return false
    end
    for i = 1, a.n do
      if not equal(a[i], b[i]) then
        return false
      end
    end
    return true
  elseif ca == Dict and cb == Dict then
    if #a.keys ~= #b.keys then
      return false
    end
    for key, v in pairs(a.vals) do
      if b.vals[key] == nil or not equal(v, b.vals[key]) then
        return false
      end
    end
    return true
  end
  return a == b
end
V.equal = equal

function V.less(ctx, a, b)
  tick()
  if is_string(a) and is_string(b) then
    return text(a) < text(b) -- by bytes, which is by code point
  end
  local na, nb = num(a), num(b)
  if na and nb then
    return na < nb
  end
  if class(a) == List and class(b) == List and a.tuple == b.tuple then
    for i = 1, math.min(a.n, b.n) do
      if not equal(a[i], b[i]) then
        return V.less(ctx, a[i], b[i])
      end
    end
    return a.n < b.n
  end
  oops(ctx, "%s and %s cannot be put in order", V.kind(a), V.kind(b))
end

function V.contains(ctx, container, v)
  local c = class(container)
  if is_string(container) then
    if not is_string(v) then
      oops(ctx, "'in' a string needs a string on its left, not %s", V.kind(v))
    end
    tick(floor(#text(container) / 64))
    return text(container):find(text(v), 1, true) ~= nil
  elseif c == Dict then
    return dict_get(ctx, container, v) ~= nil
  elseif c == List then
    for i = 1, container.n do
      if equal(container[i], v) then
        return true
      end
    end
    return false
  elseif c == Undef then
    return false
  end
  oops(ctx, "'in' needs a list, a dict or a string, not %s", V.kind(container))
end

--- Sorts an array in place, equal elements staying as they were (Python's sort is stable).
function V.sort(items, n, before)
  local from, to, width = items, {}, 1
  while width < n do
    for lo = 1, n, 2 * width do
      local mid, hi = math.min(lo + width, n + 1), math.min(lo + 2 * width, n + 1)
      local i, j = lo, mid
      for k = lo, hi - 1 do
        if i < mid and (j >= hi or not before(from[j], from[i])) then
          to[k], i = from[i], i + 1
        else
          to[k], j = from[j], j + 1
        end
      end
    end
    from, to, width = to, from, 2 * width
  end
  if from ~= items then
    for i = 1, n do
      items[i] = from[i]
    end
  end
end

-- ---- str() and repr() -----------------------------------------------------------------------------------------------

local control = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

--- Code points that Python's repr escapes: those that do not print. The ranges that text is likely to hold.
local function hidden(cp)
  return cp < 0x20 or (cp >= 0x7f and cp <= 0xa0) or cp == 0xad or (cp >= 0x2000 and cp <= 0x200f)
    or (cp >= 0x2028 and cp <= 0x202f) or (cp >= 0x205f and cp <= 0x206f) or cp == 0x3000 or cp == 0xfeff
    or (cp >= 0xe000 and cp <= 0xf8ff) or (cp >= 0xfff0 and cp <= 0xfffb) or cp == 0x1680 or cp == 0x180e
    or (cp >= 0x600 and cp <= 0x605) or cp == 0x61c
end

local function code_point(c)
  local a, b, d, e = c:byte(1, 4)
  if not b then
    return a
  elseif not d then
    return (a - 0xc0) * 64 + b - 0x80
  elseif not e then
    return ((a - 0xe0) * 64 + b - 0x80) * 64 + d - 0x80
  end
  return (((a - 0xf0) * 64 + b - 0x80) * 64 + d - 0x80) * 64 + e - 0x80
end
V.code_point = code_point

local function repr_string(s)
  local quote = s:find("'", 1, true) and not s:find('"', 1, true) and '"' or "'"
  s = s:gsub("[\\" .. quote .. "]", "\\%0")
  if s:find "[^ -~]" then
    s = s:gsub("[%z\1-\31\127]", function(c)
      return control[c] or fmt("\\x%02x", c:byte())
    end)
    s = s:gsub("[\194-\244][\128-\191]+", function(c)
      local cp = code_point(c)
      return hidden(cp) and fmt(cp < 0x100 and "\\x%02x" or cp < 0x10000 and "\\u%04x" or "\\U%08x", cp) or nil
    end)
  end
  return quote .. s .. quote
end

function V.repr(v, level)
  tick()
  level = level or 0
  if level > 60 then
    error({ code = "limit_exceeded", message = "the chat template prints a value that is nested too deeply" }, 0)
  elseif is_string(v) then
    tick(floor(#text(v) / 16))
    return repr_string(text(v))
  elseif is_number(v) then
    return number_text(v)
  elseif type(v) == "boolean" then
    return v and "True" or "False"
  elseif v == NONE then
    return "None"
  end
  local c, parts = class(v), {}
  if c == List then
    if v.shown then
      return v.shown
    end
    for i = 1, v.n do
      parts[i] = V.repr(v[i], level + 1)
    end
    return v.tuple and "(" .. concat(parts, ", ") .. (v.n == 1 and ",)" or ")") or "[" .. concat(parts, ", ") .. "]"
  elseif c == Dict then
    for i, k in ipairs(v.keys) do
      parts[i] = V.repr(k, level + 1) .. ": " .. V.repr(dict_get({}, v, k), level + 1)
    end
    return "{" .. concat(parts, ", ") .. "}"
  elseif c == Undef then
    return "Undefined"
  end
  return "<" .. V.kind(v):gsub("^an? ", "") .. ">"
end

--- What printing a value gives: a string with its trust. What is inside lists and dicts is not trusted.
function V.str(v)
  if is_string(v) then
    return v
  elseif class(v) == Undef then
    return ""
  elseif is_number(v) then
    return number_text(v)
  elseif type(v) == "table" and v ~= NONE then
    return untrusted(V.repr(v))
  end
  return V.repr(v)
end

-- ---- JSON, as Python's json.dumps writes it -------------------------------------------------------------------------

local json_escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function json_string(s, only_ascii)
  s = s:gsub('[%z\1-\31"\\]', function(c)
    return json_escapes[c] or fmt("\\u%04x", c:byte())
  end)
  if only_ascii then
    s = s:gsub("\127", "\127"):gsub("[\194-\244][\128-\191]+", function(c)
      local cp = code_point(c)
      if cp < 0x10000 then
        return fmt("\\u%04x", cp)
      end
      cp = cp - 0x10000
      return fmt("\\u%04x\\u%04x", 0xd800 + floor(cp / 1024), 0xdc00 + cp % 1024)
    end)
  end
  return '"' .. s .. '"'
end

local function json_scalar(v, style)
  if is_string(v) then
    tick(floor(#text(v) / 16))
    return json_string(text(v), style.ascii)
  elseif is_number(v) then
    local s = number_text(v)
    return s == "inf" and "Infinity" or s == "-inf" and "-Infinity" or s == "nan" and "NaN" or s
  elseif type(v) == "boolean" then
    return v and "true" or "false"
  elseif v == NONE then
    return "null"
  end
end

---@param style { indent: string?, item: string, key: string, ascii: boolean, sort: boolean }
function V.to_json(ctx, v, style, level)
  tick()
  level = level or 0
  if level > 100 then
    oops(ctx, "tojson: nested too deeply")
  end
  local scalar, c, parts = json_scalar(v, style), class(v), {}
  if scalar then
    return scalar
  elseif c == List then
    for i = 1, v.n do
      parts[i] = V.to_json(ctx, v[i], style, level + 1)
    end
  elseif c == Dict then
    local keys = {}
    for i, k in ipairs(v.keys) do
      keys[i] = k
    end
    if style.sort then
      V.sort(keys, #keys, function(a, b) return V.less(ctx, a, b) end)
    end
    for i, k in ipairs(keys) do
      local name = json_scalar(k, style) or oops(ctx, "tojson: %s cannot be a key", V.kind(k))
      parts[i] = (is_string(k) and name or '"' .. name .. '"') .. style.key .. V.to_json(ctx, dict_get(ctx, v, k), style, level + 1)
    end
  else
    oops(ctx, "tojson: %s has no JSON form", V.kind(v))
  end
  local open, close = c == List and "[" or "{", c == List and "]" or "}"
  if #parts == 0 then
    return open .. close
  elseif style.indent then
    local pad = "\n" .. style.indent:rep(level + 1)
    return open .. pad .. concat(parts, style.item .. pad) .. "\n" .. style.indent:rep(level) .. close
  end
  return open .. concat(parts, style.item) .. close
end

--- The UTF-8 of a code point.
---@param cp integer
---@return string
function V.utf8(cp)
  if cp < 0x80 then
    return string.char(cp)
  elseif cp < 0x800 then
    return string.char(0xc0 + floor(cp / 64), 0x80 + cp % 64)
  elseif cp < 0x10000 then
    return string.char(0xe0 + floor(cp / 4096), 0x80 + floor(cp / 64) % 64, 0x80 + cp % 64)
  end
  return string.char(0xf0 + floor(cp / 262144), 0x80 + floor(cp / 4096) % 64, 0x80 + floor(cp / 64) % 64, 0x80 + cp % 64)
end

return V
