--- lua/moonpool/jinja.lua: chat templates. A bounded renderer of the part of Jinja2 that published models use, set up as
--- the reference is: trim_blocks, lstrip_blocks, loop controls. core/model/template.c calls it, in a VM of its own.
---
--- Every byte of the output is trusted (it stands in the template) or not (it came with the request). A string is a Lua
--- string (trusted), or a table {s, m}: text and a mask of the same length, "\1" for trusted bytes and "\0" for others.

local M = {}

local Str, List, Dict, Undef, Object = {}, {}, {}, {}, {}
local NONE = setmetatable({}, { __tostring = function() return "None" end })

local floor, concat = math.floor, table.concat

local function refuse(message)
  error({ code = "invalid_argument", message = "the chat template refused the request: " .. message }, 0)
end

local state -- of the rendering under way: steps left, bytes left, depth

local function oops(ctx, format, ...)
  error({ code = "script_error", message = string.format("chat template, line %d: " .. format, ctx.line or 0, ...) }, 0)
end

local function tick(n)
  state.steps = state.steps - (n or 1)
  if state.steps < 0 then
    error({ code = "limit_exceeded", message = "the chat template takes too many steps" }, 0)
  end
end

---- values

local function class(v)
  return type(v) == "table" and getmetatable(v) or nil
end

local function make(s, m)
  return s == "" and "" or setmetatable({ s = s, m = m }, Str)
end

local function untrusted(s)
  tick(floor(#s / 64))
  return make(s, ("\0"):rep(#s))
end

local function is_string(v)
  return type(v) == "string" or class(v) == Str
end

local function text(v)
  return type(v) == "string" and v or v.s
end

local function mask(v)
  return type(v) == "string" and ("\1"):rep(#v) or v.m
end

local function sub(v, i, j)
  if type(v) == "string" then
    return v:sub(i, j)
  end
  return make(v.s:sub(i, j), v.m:sub(i, j))
end

local function join(parts)
  local plain, bytes = true, 0
  for i = 1, #parts do
    plain = plain and type(parts[i]) == "string"
    bytes = bytes + #text(parts[i])
  end
  tick(floor(bytes / 64))
  if bytes > state.output then
    error({ code = "limit_exceeded", message = "the chat template makes too long a text" }, 0)
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

--- The same text, changed by fn: trusted only if all of it was.
local function mapped(v, fn)
  return type(v) == "string" and fn(v) or untrusted(fn(v.s))
end

local function list(items)
  items.n = items.n or #items
  return setmetatable(items, List)
end

local function dict()
  return setmetatable({ keys = {}, vals = {} }, Dict)
end

--- Keys are compared by their text; the first spelling keeps its trust.
local function dict_set(d, k, v)
  local key = is_string(k) and text(k) or k
  if d.vals[key] == nil then
    d.keys[#d.keys + 1] = k
  end
  d.vals[key] = v
end

local function dict_get(d, k)
  return d.vals[is_string(k) and text(k) or k]
end

local function undefined(name)
  return setmetatable({ name = name }, Undef)
end

local function truthy(v)
  if type(v) == "boolean" then
    return v
  elseif type(v) == "number" then
    return v ~= 0
  elseif v == NONE or v == nil then
    return false
  elseif type(v) == "string" then
    return v ~= ""
  end
  local c = class(v)
  if c == Undef then
    return false
  elseif c == List then
    return v.n > 0
  elseif c == Dict then
    return #v.keys > 0
  end
  return true
end

local function number_text(v)
  if v == floor(v) and math.abs(v) < 1e16 then
    return string.format("%d", v)
  end
  for digits = 15, 17 do
    local s = string.format("%." .. digits .. "g", v)
    if tonumber(s) == v then
      return s
    end
  end
end

local json_escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function json_string(s)
  return '"' .. s:gsub('[%z\1-\31"\\]', function(c)
    return json_escapes[c] or string.format("\\u%04x", c:byte())
  end) .. '"'
end

local function to_json(ctx, v, indent, level)
  tick()
  if level > 100 then
    oops(ctx, "tojson: nested too deeply")
  end
  if is_string(v) then
    return json_string(text(v))
  elseif type(v) == "number" then
    return number_text(v)
  elseif type(v) == "boolean" then
    return tostring(v)
  elseif v == NONE then
    return "null"
  end
  local c, parts = class(v), {}
  local pad = indent and "\n" .. (" "):rep(indent * (level + 1))
  if c == List then
    for i = 1, v.n do
      parts[i] = to_json(ctx, v[i], indent, level + 1)
    end
  elseif c == Dict then
    for i, k in ipairs(v.keys) do
      local name = is_string(k) and text(k) or type(k) == "number" and number_text(k) or tostring(k)
      parts[i] = json_string(name) .. ": " .. to_json(ctx, dict_get(v, k), indent, level + 1)
    end
  else
    oops(ctx, "tojson: %s has no JSON form", c == Undef and "an undefined value" or "a function")
  end
  local open, close = c == List and "[" or "{", c == List and "]" or "}"
  if #parts == 0 then
    return open .. close
  elseif indent then
    return open .. pad .. concat(parts, "," .. pad) .. "\n" .. (" "):rep(indent * level) .. close
  end
  return open .. concat(parts, ", ") .. close
end

--- Python's repr, of what is inside a printed list or dict.
local function repr(v)
  tick()
  if is_string(v) then
    local s = text(v)
    local quote = s:find("'", 1, true) and not s:find('"', 1, true) and '"' or "'"
    local escapes = { ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", [quote] = "\\" .. quote }
    return quote .. s:gsub("[\\\n\r\t" .. quote .. "]", escapes) .. quote
  elseif type(v) == "number" then
    return number_text(v)
  elseif type(v) == "boolean" then
    return v and "True" or "False"
  elseif class(v) == List then
    local parts = {}
    for i = 1, v.n do
      parts[i] = repr(v[i])
    end
    return "[" .. concat(parts, ", ") .. "]"
  elseif class(v) == Dict then
    local parts = {}
    for i, k in ipairs(v.keys) do
      parts[i] = repr(k) .. ": " .. repr(dict_get(v, k))
    end
    return "{" .. concat(parts, ", ") .. "}"
  elseif class(v) == Undef then
    return "Undefined"
  end
  return "None"
end

--- What printing a value gives: a string with its trust.
local function printed(v)
  if is_string(v) then
    return v
  elseif class(v) == Undef or v == nil then
    return ""
  elseif type(v) == "number" then
    return number_text(v)
  elseif type(v) == "table" and v ~= NONE then
    return untrusted(repr(v))
  end
  return repr(v)
end

local function equal(a, b)
  if is_string(a) and is_string(b) then
    return text(a) == text(b)
  end
  local ca, cb = class(a), class(b)
  if ca == Undef and cb == Undef then
    return true
  elseif ca == List and cb == List and a.n == b.n then
    for i = 1, a.n do
      if not equal(a[i], b[i]) then
        return false
      end
    end
    return true
  elseif ca == Dict and cb == Dict and #a.keys == #b.keys then
    for _, k in ipairs(a.keys) do
      local other = dict_get(b, k)
      if other == nil or not equal(dict_get(a, k), other) then
        return false
      end
    end
    return true
  end
  return a == b
end

local function less(ctx, a, b)
  if is_string(a) and is_string(b) then
    return text(a) < text(b)
  elseif type(a) == "number" and type(b) == "number" then
    return a < b
  end
  oops(ctx, "these two cannot be put in order")
end

--- Byte offset behind each character: Python counts characters.
local function characters(s)
  local starts, at = {}, 1
  while at <= #s do
    starts[#starts + 1] = at
    local c = s:byte(at)
    at = at + (c < 0x80 and 1 or c < 0xe0 and 2 or c < 0xf0 and 3 or 4)
  end
  starts[#starts + 1] = #s + 1
  tick(floor(#s / 16))
  return starts
end

local function ascii(s)
  return not s:find "[\128-\255]"
end

local function length(ctx, v)
  if is_string(v) then
    local s = text(v)
    return ascii(s) and #s or #characters(s) - 1
  elseif class(v) == List then
    return v.n
  elseif class(v) == Dict then
    return #v.keys
  elseif class(v) == Undef then
    return 0
  end
  oops(ctx, "this value has no length")
end

--- The items that a for loop (or a filter on sequences) sees.
local function items_of(ctx, v)
  if class(v) == List then
    return v
  elseif class(v) == Dict then
    local out = list {}
    for i, k in ipairs(v.keys) do
      out[i] = k
    end
    out.n = #v.keys
    return out
  elseif class(v) == Undef then
    return list {}
  elseif is_string(v) then
    local starts, out = characters(text(v)), {}
    for i = 1, #starts - 1 do
      out[i] = sub(v, starts[i], starts[i + 1] - 1)
    end
    return list(out)
  end
  oops(ctx, "this value cannot be looped over")
end

local function contains(ctx, container, v)
  if is_string(container) then
    return is_string(v) and text(container):find(text(v), 1, true) ~= nil
  elseif class(container) == Dict then
    return dict_get(container, v) ~= nil
  elseif class(container) == List then
    tick(container.n)
    for i = 1, container.n do
      if equal(container[i], v) then
        return true
      end
    end
    return false
  elseif class(container) == Undef then
    return false
  end
  oops(ctx, "'in' needs a list, a dict or a string")
end

---- strings' methods and filters

local spaces = " \t\n\r\f\v"

local function strip(v, chars, left, right)
  local s = text(v)
  chars = chars or spaces
  local from, to = 1, #s
  while left and from <= to and chars:find(s:sub(from, from), 1, true) do
    from = from + 1
  end
  while right and to >= from and chars:find(s:sub(to, to), 1, true) do
    to = to - 1
  end
  return sub(v, from, to)
end

local function split(v, separator, most)
  local s, out, at = text(v), {}, 1
  if separator then
    while not most or #out < most do
      local from, to = s:find(separator, at, true)
      if not from then
        break
      end
      tick()
      out[#out + 1] = sub(v, at, from - 1)
      at = to + 1
    end
    out[#out + 1] = sub(v, at)
  else
    for from, to in s:gmatch "()[^ \t\n\r\f\v]+()" do
      tick()
      out[#out + 1] = sub(v, from, to - 1)
    end
  end
  return list(out)
end

local function replace(ctx, v, old, new, count)
  if not is_string(old) or not is_string(new) then
    oops(ctx, "replace needs two strings")
  end
  local s, from, parts, at = text(v), text(old), {}, 1
  if from == "" then
    oops(ctx, "replace needs a text to look for")
  end
  while not count or count > 0 do
    local i, j = s:find(from, at, true)
    if not i then
      break
    end
    tick()
    parts[#parts + 1] = sub(v, at, i - 1)
    parts[#parts + 1] = new
    at = j + 1
    count = count and count - 1
  end
  parts[#parts + 1] = sub(v, at)
  return join(parts)
end

local function chars_of(ctx, v)
  if v == nil or v == NONE then
    return nil
  elseif not is_string(v) then
    oops(ctx, "a string is wanted here")
  end
  return text(v)
end

local function affix(ctx, v, what, at_end)
  for _, one in ipairs(class(what) == List and what or { what }) do
    local s, t = text(v), chars_of(ctx, one)
    if t and (at_end and (t == "" or s:sub(-#t) == t) or not at_end and s:sub(1, #t) == t) then
      return true
    end
  end
  return false
end

local function title(s)
  return (s:lower():gsub("%f[%a]%a", string.upper))
end

local methods = {} -- of strings: function(ctx, self, args, named)

function methods.strip(ctx, v, a) return strip(v, chars_of(ctx, a[1]), true, true) end
function methods.lstrip(ctx, v, a) return strip(v, chars_of(ctx, a[1]), true, false) end
function methods.rstrip(ctx, v, a) return strip(v, chars_of(ctx, a[1]), false, true) end
function methods.startswith(ctx, v, a) return affix(ctx, v, a[1], false) end
function methods.endswith(ctx, v, a) return affix(ctx, v, a[1], true) end
function methods.split(ctx, v, a) return split(v, chars_of(ctx, a[1]), a[2]) end
function methods.replace(ctx, v, a) return replace(ctx, v, a[1], a[2], a[3]) end
function methods.upper(_, v) return mapped(v, string.upper) end
function methods.lower(_, v) return mapped(v, string.lower) end
function methods.title(_, v) return mapped(v, title) end
function methods.capitalize(_, v)
  return mapped(v, function(s) return s:sub(1, 1):upper() .. s:sub(2):lower() end)
end
function methods.find(ctx, v, a)
  local i = text(v):find(chars_of(ctx, a[1]) or "", 1, true)
  return i and i - 1 or -1
end
function methods.join(ctx, v, a)
  local parts = {}
  for i = 1, items_of(ctx, a[1]).n do
    parts[#parts + 1] = i > 1 and v or nil
    parts[#parts + 1] = printed(items_of(ctx, a[1])[i])
  end
  return join(parts)
end
function methods.isdigit(_, v) return text(v):find "^%d+$" ~= nil end

local dict_methods = {}
function dict_methods.items(_, d)
  local out = {}
  for i, k in ipairs(d.keys) do
    out[i] = list { k, dict_get(d, k) }
  end
  return list(out)
end
function dict_methods.keys(ctx, d) return items_of(ctx, d) end
function dict_methods.values(_, d)
  local out = {}
  for i, k in ipairs(d.keys) do
    out[i] = dict_get(d, k)
  end
  return list(out)
end
function dict_methods.get(_, d, a)
  local v = dict_get(d, a[1])
  if v == nil then
    v = a[2]
  end
  return v == nil and NONE or v
end

local list_methods = {}
function list_methods.append(_, l, a)
  tick()
  l.n = l.n + 1
  l[l.n] = a[1]
  return NONE
end

local function attribute(ctx, v, name)
  local c = class(v)
  local own = is_string(v) and methods[name] or c == Dict and dict_methods[name] or c == List and list_methods[name]
  if own then
    return function(inner, args, named) return own(inner, v, args, named) end
  elseif c == Dict then
    local got = v.vals[name]
    return got == nil and undefined(name) or got
  elseif c == Object then
    local got = v[name]
    return got == nil and undefined(name) or got
  elseif c == Undef then
    oops(ctx, "'%s' is undefined, so it has no '%s'", v.name, name)
  end
  return undefined(name)
end

local function item(ctx, v, k)
  local c = class(v)
  if c == Undef then
    oops(ctx, "'%s' is undefined: it cannot be indexed", v.name)
  elseif c == Dict then
    local got = dict_get(v, k)
    if got ~= nil then
      return got
    end
    return is_string(k) and attribute(ctx, v, text(k)) or undefined "key"
  elseif type(k) == "number" then
    local all = is_string(v) and items_of(ctx, v) or v
    if class(all) == List then
      local got = all[k >= 0 and k + 1 or all.n + k + 1]
      return got == nil and undefined "item" or got
    end
  elseif is_string(k) then
    return attribute(ctx, v, text(k))
  end
  return undefined "item"
end

local function slice(ctx, v, from, to, step)
  step = step == nil and 1 or step
  local all = items_of(ctx, v)
  local n = all.n
  local function clamp(i, default, low, high)
    if i == nil or i == NONE then
      return default
    end
    i = i < 0 and i + n or i
    return i < low and low or i > high and high or i
  end
  if step == 0 then
    oops(ctx, "a slice's step cannot be 0")
  end
  local a = step > 0 and clamp(from, 0, 0, n) or clamp(from, n - 1, -1, n - 1)
  local b = step > 0 and clamp(to, n, 0, n) or clamp(to, -1, -1, n - 1)
  local out = {}
  for i = a, step > 0 and b - 1 or b + 1, step do
    tick()
    out[#out + 1] = all[i + 1]
  end
  return is_string(v) and join(out) or list(out)
end

---- filters and tests

local tests, filters = {}, {}

function tests.defined(_, v) return class(v) ~= Undef end
function tests.undefined(_, v) return class(v) == Undef end
function tests.none(_, v) return v == NONE end
function tests.string(_, v) return is_string(v) end
function tests.mapping(_, v) return class(v) == Dict end
function tests.iterable(_, v) return is_string(v) or class(v) == List or class(v) == Dict or class(v) == Undef end
function tests.sequence(_, v) return is_string(v) or class(v) == List or class(v) == Dict or class(v) == Undef end
function tests.number(_, v) return type(v) == "number" end
function tests.integer(_, v) return type(v) == "number" and v == floor(v) end
function tests.float(_, v) return type(v) == "number" and v ~= floor(v) end
function tests.boolean(_, v) return type(v) == "boolean" end
tests["true"] = function(_, v) return v == true end
tests["false"] = function(_, v) return v == false end
function tests.callable(_, v) return type(v) == "function" end
function tests.odd(_, v) return v % 2 == 1 end
function tests.even(_, v) return v % 2 == 0 end
function tests.divisibleby(_, v, a) return v % a[1] == 0 end
function tests.equalto(_, v, a) return equal(v, a[1]) end
tests.eq, tests["=="], tests.sameas = tests.equalto, tests.equalto, tests.equalto
function tests.ne(_, v, a) return not equal(v, a[1]) end
tests["in"] = function(ctx, v, a) return contains(ctx, a[1], v) end
function tests.lower(_, v) return is_string(v) and text(v) == text(v):lower() end
function tests.upper(_, v) return is_string(v) and text(v) == text(v):upper() end

local function need_string(v)
  return is_string(v) and v or printed(v)
end

for name, method in pairs { upper = "upper", lower = "lower", title = "title", capitalize = "capitalize" } do
  filters[name] = function(ctx, v) return methods[method](ctx, need_string(v), {}) end
end
function filters.trim(ctx, v, a) return strip(need_string(v), chars_of(ctx, a[1]), true, true) end
function filters.length(ctx, v) return length(ctx, v) end
filters.count = filters.length
function filters.tojson(ctx, v, a, named)
  local indent = named.indent or a[1]
  return untrusted(to_json(ctx, v, type(indent) == "number" and indent or nil, 0))
end
function filters.default(_, v, a, named)
  local also_false = a[2] or named.boolean
  if class(v) == Undef or (also_false and not truthy(v)) then
    return a[1] == nil and "" or a[1]
  end
  return v
end
filters.d = filters.default
function filters.replace(ctx, v, a) return replace(ctx, need_string(v), a[1], a[2], a[3]) end
function filters.join(ctx, v, a, named)
  local parts, all, attr = {}, items_of(ctx, v), named.attribute or a[2]
  for i = 1, all.n do
    parts[#parts + 1] = i > 1 and a[1] or nil
    parts[#parts + 1] = printed(attr and item(ctx, all[i], attr) or all[i])
  end
  return join(parts)
end
function filters.first(ctx, v)
  local all = items_of(ctx, v)
  return all.n > 0 and all[1] or undefined "first"
end
function filters.last(ctx, v)
  local all = items_of(ctx, v)
  return all.n > 0 and all[all.n] or undefined "last"
end
function filters.list(ctx, v)
  local all, out = items_of(ctx, v), {}
  for i = 1, all.n do
    out[i] = all[i]
  end
  return list(out)
end
function filters.reverse(ctx, v) return slice(ctx, v, nil, nil, -1) end
function filters.string(_, v) return printed(v) end
function filters.safe(_, v) return v end
function filters.int(_, v, a)
  local n = type(v) == "number" and v or is_string(v) and tonumber(text(v)) or a[1] or 0
  return n < 0 and -floor(-n) or floor(n)
end
function filters.float(_, v, a) return type(v) == "number" and v or is_string(v) and tonumber(text(v)) or a[1] or 0 end
function filters.abs(_, v) return math.abs(v) end
function filters.items(ctx, v) return class(v) == Dict and dict_methods.items(ctx, v) or list {} end
function filters.dictsort(ctx, v)
  local pairs_ = dict_methods.items(ctx, v)
  table.sort(pairs_, function(x, y) return text(printed(x[1])):lower() < text(printed(y[1])):lower() end)
  return pairs_
end
function filters.sort(ctx, v)
  local out = filters.list(ctx, v)
  table.sort(out, function(x, y) return less(ctx, x, y) end)
  return out
end
function filters.unique(ctx, v)
  local all, out = items_of(ctx, v), list {}
  for i = 1, all.n do
    if not contains(ctx, out, all[i]) then
      list_methods.append(ctx, out, { all[i] })
    end
  end
  return out
end
function filters.map(ctx, v, a, named)
  local all, out = items_of(ctx, v), {}
  for i = 1, all.n do
    tick()
    if named.attribute then
      local got = item(ctx, all[i], named.attribute)
      out[i] = class(got) == Undef and named.default or got
    else
      local f = filters[chars_of(ctx, a[1]) or ""] or oops(ctx, "map: no such filter")
      out[i] = f(ctx, all[i], { unpack(a, 2) }, named)
    end
  end
  return list(out)
end

--- select, reject and their attribute forms.
local function chooser(by_attribute, wanted)
  return function(ctx, v, a)
    local all, out, skip = items_of(ctx, v), {}, by_attribute and 1 or 0
    local name = a[1 + skip] and chars_of(ctx, a[1 + skip])
    local test = name and (tests[name] or oops(ctx, "no test '%s'", name))
    local args = { unpack(a, 2 + skip) }
    for i = 1, all.n do
      tick()
      local value = by_attribute and item(ctx, all[i], a[1]) or all[i]
      local yes
      if test then
        yes = test(ctx, value, args)
      else
        yes = truthy(value)
      end
      if yes == wanted then
        out[#out + 1] = all[i]
      end
    end
    return list(out)
  end
end
filters.select, filters.reject = chooser(false, true), chooser(false, false)
filters.selectattr, filters.rejectattr = chooser(true, true), chooser(true, false)

---- reading the template

local function template_error(line, format, ...)
  error({ code = "bad_format", message = string.format("chat template, line %d: " .. format, line, ...) }, 0)
end

local two = { ["=="] = 1, ["!="] = 1, ["<="] = 1, [">="] = 1, ["//"] = 1, ["**"] = 1 }
local string_escapes = { n = "\n", t = "\t", r = "\r", ["\\"] = "\\", ["'"] = "'", ['"'] = '"', ["\n"] = "" }

--- Tokens of one tag from `at` to its closing mark; returns them and where the tag ends.
local function lex_tag(src, at, close, line)
  local out, depth = {}, 0
  while true do
    local from = src:match("^%s*()", at)
    line = line + select(2, src:sub(at, from - 1):gsub("\n", ""))
    at = from
    local sign = src:match("^[-+]", at) or ""
    if depth == 0 and src:sub(at + #sign, at + #sign + 1) == close then
      return out, at + #sign + 2, sign, line
    end
    local c = src:sub(at, at)
    if c == "" then
      template_error(line, "a tag is not closed: '%s' is missing", close)
    end
    local token
    local word = src:match("^[%a_][%w_]*", at)
    local digits = src:match("^%d[%d_]*%.?%d*[eE]?", at)
    if word then
      token = { kind = "name", value = word }
      at = at + #word
    elseif digits then
      digits = src:match("^%d+%.%d+", at) or src:match("^%d+", at)
      token = { kind = "number", value = tonumber(digits) }
      at = at + #digits
    elseif c == "'" or c == '"' then
      local parts, i = {}, at + 1
      while true do
        local stop = src:find("[\\" .. c .. "]", i)
        if not stop then
          template_error(line, "a string is not closed")
        end
        parts[#parts + 1] = src:sub(i, stop - 1)
        if src:sub(stop, stop) == c then
          at = stop + 1
          break
        end
        local e = src:sub(stop + 1, stop + 1)
        local hex = e == "u" and src:match("^%x%x%x%x", stop + 2)
        if hex then
          local cp = tonumber(hex, 16)
          parts[#parts + 1] = cp < 0x80 and string.char(cp)
            or cp < 0x800 and string.char(0xc0 + floor(cp / 64), 0x80 + cp % 64)
            or string.char(0xe0 + floor(cp / 4096), 0x80 + floor(cp / 64) % 64, 0x80 + cp % 64)
          i = stop + 6
        else
          parts[#parts + 1] = string_escapes[e] or "\\" .. e
          i = stop + 2
        end
      end
      token = { kind = "string", value = concat(parts) }
    else
      local op = src:sub(at, at + 1)
      op = two[op] and op or c
      if not op:find "^[-+*/%%~=<>!()%[%]{},.:|]" or op == "!" then
        template_error(line, "unexpected character '%s'", c)
      end
      if op:find "^[%(%[{]" then
        depth = depth + 1
      elseif op:find "^[%)%]}]" then
        depth = depth - 1
      end
      token = { kind = "op", value = op }
      at = at + #op
    end
    token.line = line
    out[#out + 1] = token
    if #out > 4096 then
      template_error(line, "a tag is too long")
    end
  end
end

--- The template as a list of { kind = "text" | "print" | "block", … }.
local function lex(src)
  src = src:gsub("\r\n?", "\n")
  src = src:gsub("\n$", "", 1)
  local out, at, line, trim = {}, 1, 1, ""
  local function add_text(stop, open_sign, kind)
    local s = src:sub(at, stop)
    local lines = select(2, s:gsub("\n", ""))
    if trim == "-" then
      s = s:gsub("^%s+", "")
    elseif trim == "block" then
      s = s:gsub("^\n", "")
    end
    if open_sign == "-" then
      s = s:gsub("%s+$", "")
    elseif open_sign ~= "+" and (kind == "%" or kind == "#") then
      -- lstrip_blocks: only white space between the line's start and the tag
      local cut = s:match "()[ \t]*$"
      local starts_line = at == 1 or src:sub(at - 1, at - 1) == "\n" or (trim == "block" and src:sub(at, at) == "\n")
      if (cut > 1 and s:sub(cut - 1, cut - 1) == "\n") or (cut == 1 and starts_line) then
        s = s:sub(1, cut - 1)
      end
    end
    if s ~= "" then
      out[#out + 1] = { kind = "text", value = s }
    end
    line = line + lines
  end
  while true do
    local open, _, kind = src:find("{([{%%#])", at)
    if not open then
      add_text(#src)
      return out
    end
    local sign = src:match("^[-+]", open + 2) or ""
    add_text(open - 1, sign, kind)
    if kind == "#" then
      local from, to = src:find("#}", open + 2, true)
      if not from then
        template_error(line, "a comment is not closed")
      end
      line = line + select(2, src:sub(open, to):gsub("\n", ""))
      trim = src:sub(from - 1, from - 1) == "-" and "-" or "block"
      at = to + 1
    else
      local tokens, stop, end_sign, end_line = lex_tag(src, open + 2 + #sign, kind == "{" and "}}" or "%}", line)
      local tag = { kind = kind == "{" and "print" or "block", tokens = tokens, line = line }
      line = end_line
      at = stop
      trim = end_sign == "-" and "-" or kind == "%" and end_sign ~= "+" and "block" or ""
      if tag.kind == "block" and tokens[1] and tokens[1].value == "raw" then
        local from, to, close_sign = src:find("{%%%-?%s*endraw%s*(%-?)%%}", at)
        if not from then
          template_error(line, "'raw' is not closed")
        end
        local raw = src:sub(at, from - 1)
        out[#out + 1] = { kind = "text", value = trim == "block" and raw:gsub("^\n", "") or raw }
        at, trim = to + 1, close_sign == "-" and "-" or "block"
      else
        out[#out + 1] = tag
      end
    end
    if #out > 65536 then
      template_error(line, "too many tags")
    end
  end
end

---- expressions: each becomes function(ctx) -> value

local Parser = {}
Parser.__index = Parser

function Parser:fail(...)
  template_error((self.tokens[self.at] or self.tokens[#self.tokens] or self).line or self.line, ...)
end

function Parser:peek(value)
  local t = self.tokens[self.at]
  return t and t.kind ~= "string" and t.value == value
end

function Parser:accept(value)
  if self:peek(value) then
    self.at = self.at + 1
    return true
  end
end

function Parser:expect(value)
  return self:accept(value) or self:fail("'%s' expected", value)
end

function Parser:name()
  local t = self.tokens[self.at]
  if not t or t.kind ~= "name" then
    self:fail "a name expected"
  end
  self.at = self.at + 1
  return t.value
end

--- Counts nesting while parsing: a template is not to overflow the C stack.
function Parser:nest(fn)
  self.depth = self.depth + 1
  if self.depth > 120 then
    self:fail "nested too deeply"
  end
  local a, b = fn(self)
  self.depth = self.depth - 1
  return a, b
end

function Parser:expression()
  return self:nest(function()
    local value = self:either()
    while self:accept "if" do
      local condition = self:either()
      local other = self:accept "else" and self:expression()
      local yes = value
      value = function(ctx)
        if truthy(condition(ctx)) then
          return yes(ctx)
        end
        return other and other(ctx) or (not other and undefined "" or other(ctx))
      end
    end
    return value
  end)
end

function Parser:either()
  local left = self:both()
  while self:accept "or" do
    local a, b = left, self:both()
    left = function(ctx)
      local v = a(ctx)
      if truthy(v) then
        return v
      end
      return b(ctx)
    end
  end
  return left
end

function Parser:both()
  local left = self:negation()
  while self:accept "and" do
    local a, b = left, self:negation()
    left = function(ctx)
      local v = a(ctx)
      if truthy(v) then
        return b(ctx)
      end
      return v
    end
  end
  return left
end

function Parser:negation()
  if self:accept "not" then
    local a = self:nest(self.negation)
    return function(ctx) return not truthy(a(ctx)) end
  end
  return self:comparison()
end

local comparisons = {
  ["=="] = function(_, a, b) return equal(a, b) end,
  ["!="] = function(_, a, b) return not equal(a, b) end,
  ["<"] = less,
  [">"] = function(ctx, a, b) return less(ctx, b, a) end,
  ["<="] = function(ctx, a, b) return not less(ctx, b, a) end,
  [">="] = function(ctx, a, b) return not less(ctx, a, b) end,
  ["in"] = function(ctx, a, b) return contains(ctx, b, a) end,
}

function Parser:comparison()
  local first, rest = self:sum(), {}
  while true do
    local t = self.tokens[self.at]
    local op, negate = t and t.kind ~= "string" and comparisons[t.value], false
    if not op and self:peek "not" and self.tokens[self.at + 1] and self.tokens[self.at + 1].value == "in" then
      op, negate = comparisons["in"], true
      self.at = self.at + 1
    end
    if not op then
      break
    end
    self.at = self.at + 1
    rest[#rest + 1] = { op = op, negate = negate, value = self:sum() }
  end
  if #rest == 0 then
    return first
  end
  return function(ctx)
    tick()
    local a = first(ctx)
    for _, r in ipairs(rest) do
      local b = r.value(ctx)
      local yes = r.op(ctx, a, b)
      if yes == r.negate then
        return false
      end
      a = b
    end
    return true
  end
end

local function arithmetic(op)
  return function(ctx, a, b)
    if type(a) ~= "number" or type(b) ~= "number" then
      oops(ctx, "'%s' needs two numbers", op)
    end
    if (op == "/" or op == "//" or op == "%") and b == 0 then
      oops(ctx, "division by zero")
    end
    if op == "-" then return a - b elseif op == "/" then return a / b elseif op == "//" then return floor(a / b)
    elseif op == "%" then return a % b elseif op == "**" then return a ^ b end
    return a * b
  end
end

local operators = {
  ["-"] = arithmetic "-", ["/"] = arithmetic "/", ["//"] = arithmetic "//", ["%"] = arithmetic "%", ["**"] = arithmetic "**",
  ["*"] = arithmetic "*",
  ["~"] = function(_, a, b) return join { printed(a), printed(b) } end,
  ["+"] = function(ctx, a, b)
    if is_string(a) and is_string(b) then
      return join { a, b }
    elseif type(a) == "number" and type(b) == "number" then
      return a + b
    elseif class(a) == List and class(b) == List then
      tick(a.n + b.n)
      local out = {}
      for i = 1, a.n do out[i] = a[i] end
      for i = 1, b.n do out[a.n + i] = b[i] end
      return list(out)
    end
    local function kind(v)
      return is_string(v) and "a string" or class(v) == Undef and "'" .. tostring(v.name) .. "' (undefined)" or v == NONE and "none"
        or type(v) == "number" and "a number" or type(v) == "boolean" and "a boolean" or class(v) == List and "a list" or "a dict"
    end
    oops(ctx, "cannot add %s and %s", kind(a), kind(b))
  end,
}

local function binary(ops, next_level)
  return function(self)
    local left = self[next_level](self)
    while true do
      local t = self.tokens[self.at]
      if not t or t.kind ~= "op" or not ops[t.value] then
        return left
      end
      self.at = self.at + 1
      local op, a, b = operators[t.value], left, self[next_level](self)
      left = function(ctx)
        tick()
        local x = a(ctx)
        return op(ctx, x, b(ctx))
      end
    end
  end
end

Parser.sum = binary({ ["+"] = true, ["-"] = true }, "tilde")
Parser.tilde = binary({ ["~"] = true }, "product")
Parser.product = binary({ ["*"] = true, ["/"] = true, ["//"] = true, ["%"] = true }, "power")
Parser.power = binary({ ["**"] = true }, "unary")

function Parser:unary()
  if self:accept "-" then
    local a = self:nest(self.unary)
    return function(ctx)
      local v = a(ctx)
      return type(v) == "number" and -v or oops(ctx, "'-' needs a number")
    end
  elseif self:accept "+" then
    return self:nest(self.unary)
  end
  return self:filtered(self:postfix(self:primary()))
end

function Parser:arguments()
  local args, named = {}, {}
  self:expect "("
  while not self:accept ")" do
    local t, after = self.tokens[self.at], self.tokens[self.at + 1]
    if t and t.kind == "name" and after and after.kind == "op" and after.value == "=" then
      self.at = self.at + 2
      named[#named + 1] = { t.value, self:expression() }
    else
      args[#args + 1] = self:expression()
    end
    if not self:peek ")" then
      self:expect ","
    end
  end
  return function(ctx)
    local a, n = {}, {}
    for i, f in ipairs(args) do
      a[i] = f(ctx)
    end
    for _, p in ipairs(named) do
      n[p[1]] = p[2](ctx)
    end
    return a, n
  end
end

local function no_arguments()
  return {}, {}
end

function Parser:postfix(value)
  while true do
    local base = value
    if self:accept "." then
      local t = self.tokens[self.at]
      if t and t.kind == "number" then
        self.at = self.at + 1
        value = function(ctx) return item(ctx, base(ctx), t.value) end
      else
        local name = self:name()
        value = function(ctx)
          tick()
          return attribute(ctx, base(ctx), name)
        end
      end
    elseif self:accept "[" then
      local from, to, step, sliced
      if not self:peek ":" then
        from = self:expression()
      end
      if self:accept ":" then
        sliced = true
        if not self:peek "]" and not self:peek ":" then
          to = self:expression()
        end
        if self:accept ":" and not self:peek "]" then
          step = self:expression()
        end
      end
      self:expect "]"
      value = function(ctx)
        tick()
        local v = base(ctx)
        if sliced then
          return slice(ctx, v, from and from(ctx), to and to(ctx), step and step(ctx))
        end
        return item(ctx, v, from(ctx))
      end
    elseif self:peek "(" then
      local args = self:arguments()
      value = function(ctx)
        tick()
        local f = base(ctx)
        if type(f) ~= "function" then
          oops(ctx, class(f) == Undef and "'%s' is undefined: it cannot be called" or "this value cannot be called", f.name)
        end
        return f(ctx, args(ctx))
      end
    else
      return value
    end
  end
end

local keywords = { ["and"] = true, ["or"] = true, ["else"] = true, ["if"] = true, ["is"] = true, ["in"] = true, ["not"] = true }

function Parser:filtered(value)
  while true do
    local base = value
    if self:accept "|" then
      local name = self:name()
      local filter = filters[name] or self:fail("no filter '%s'", name)
      local args = self:peek "(" and self:arguments() or no_arguments
      value = self:postfix(function(ctx)
        tick()
        return filter(ctx, base(ctx), args(ctx))
      end)
    elseif self:accept "is" then
      local negate = self:accept "not"
      local name = self:name()
      local test = tests[name] or self:fail("no test '%s'", name)
      local args, t = no_arguments, self.tokens[self.at]
      if self:peek "(" then
        args = self:arguments()
      elseif t and (t.kind == "number" or t.kind == "string" or (t.kind == "name" and not keywords[t.value])) then
        local one = self:postfix(self:primary())
        args = function(ctx) return { one(ctx) }, {} end
      end
      value = function(ctx)
        tick()
        return (not test(ctx, base(ctx), (args(ctx)))) == (negate or false)
      end
    else
      return value
    end
  end
end

local constants = { ["true"] = true, ["True"] = true, ["false"] = false, ["False"] = false, ["none"] = NONE, ["None"] = NONE }

function Parser:primary()
  local t = self.tokens[self.at]
  if not t then
    self:fail "a value expected"
  end
  self.at = self.at + 1
  local v = t.value
  if t.kind == "string" then
    while self.tokens[self.at] and self.tokens[self.at].kind == "string" do
      v = v .. self.tokens[self.at].value
      self.at = self.at + 1
    end
    return function() return v end
  elseif t.kind == "number" then
    return function() return v end
  elseif t.kind == "name" then
    if constants[v] ~= nil then
      local constant = constants[v]
      return function() return constant end
    end
    return function(ctx)
      tick()
      local got = ctx.vars[v]
      return got == nil and undefined(v) or got
    end
  elseif v == "(" then
    return self:nest(self.parenthesis)
  elseif v == "[" then
    local parts = self:nest(function() return self:sequence "]" end)
    return function(ctx)
      local out = {}
      for i, f in ipairs(parts) do
        out[i] = f(ctx)
      end
      tick(#out)
      return list(out)
    end
  elseif v == "{" then
    return self:nest(self.dictionary)
  end
  self.at = self.at - 1
  self:fail("unexpected '%s'", tostring(v))
end

function Parser:sequence(close)
  local parts = {}
  while not self:accept(close) do
    parts[#parts + 1] = self:expression()
    if not self:peek(close) then
      self:expect ","
    end
  end
  return parts
end

function Parser:parenthesis()
  if self:accept ")" then
    return function() return list {} end
  end
  local first = self:expression()
  if self:accept ")" then
    return first
  end
  self:expect ","
  local rest = self:sequence ")"
  return function(ctx)
    local out = { first(ctx) }
    for i, f in ipairs(rest) do
      out[i + 1] = f(ctx)
    end
    return list(out)
  end
end

function Parser:dictionary()
  local keys, values = {}, {}
  while not self:accept "}" do
    keys[#keys + 1] = self:expression()
    self:expect ":"
    values[#values + 1] = self:expression()
    if not self:peek "}" then
      self:expect ","
    end
  end
  return function(ctx)
    local d = dict()
    for i = 1, #keys do
      dict_set(d, keys[i](ctx), values[i](ctx))
    end
    return d
  end
end

---- statements: each becomes function(ctx, out) -> nil | "break" | "continue"

local function run(body, ctx, out)
  for i = 1, #body do
    tick()
    local signal = body[i](ctx, out)
    if signal then
      return signal
    end
  end
end

local function nested(ctx, fn)
  state.depth = state.depth - 1
  if state.depth < 0 then
    oops(ctx, "nested too deeply")
  end
  local signal = fn()
  state.depth = state.depth + 1
  return signal
end

local function child(ctx)
  return { vars = setmetatable({}, { __index = ctx.vars }), line = ctx.line }
end

local function emit(out, v)
  local s = printed(v)
  out.bytes = out.bytes + #text(s)
  if out.bytes > state.output then
    error({ code = "limit_exceeded", message = "the chat template makes too long a text" }, 0)
  end
  out[#out + 1] = s
end

local statements = {}

--- Reads nodes until a block tag whose name is one of `ends`; returns the body and that tag's parser.
local function parse_body(reader, ends)
  local body = {}
  reader.depth = reader.depth + 1
  if reader.depth > 60 then
    template_error(reader.line or 0, "nested too deeply")
  end
  while true do
    local node = reader.nodes[reader.at]
    if not node then
      if ends then
        template_error(reader.line or 0, "'%s' is missing at the end", ends[#ends])
      end
      break
    end
    reader.at = reader.at + 1
    reader.line = node.line or reader.line
    if node.kind == "text" then
      body[#body + 1] = function(_, out) emit(out, node.value) end
    else
      local p = setmetatable({ tokens = node.tokens, at = 1, depth = 0, line = node.line }, Parser)
      if node.kind == "print" then
        local value = p:expression()
        if p.tokens[p.at] then
          p:fail("unexpected '%s'", tostring(p.tokens[p.at].value))
        end
        body[#body + 1] = function(ctx, out)
          ctx.line = node.line
          emit(out, value(ctx))
        end
      else
        local name = p:name()
        for _, stop in ipairs(ends or {}) do
          if stop == name then
            reader.depth = reader.depth - 1
            return body, name, p
          end
        end
        local statement = statements[name] or p:fail("unknown tag '%s'", name)
        local fn = statement(reader, p)
        body[#body + 1] = function(ctx, out)
          ctx.line = node.line
          return fn(ctx, out)
        end
        if p.tokens[p.at] then
          p:fail("unexpected '%s'", tostring(p.tokens[p.at].value))
        end
      end
    end
  end
  reader.depth = reader.depth - 1
  return body
end

statements["if"] = function(reader, p)
  local branches, other = { { condition = p:expression() } }, nil
  while true do
    local body, stop, inner = parse_body(reader, { "elif", "else", "endif" })
    branches[#branches].body = body
    if stop == "elif" then
      branches[#branches + 1] = { condition = inner:expression() }
    else
      if stop == "else" then
        other = parse_body(reader, { "endif" })
      end
      break
    end
  end
  return function(ctx, out)
    for _, b in ipairs(branches) do
      if truthy(b.condition(ctx)) then
        return nested(ctx, function() return run(b.body, ctx, out) end)
      end
    end
    return other and nested(ctx, function() return run(other, ctx, out) end)
  end
end

statements["for"] = function(reader, p)
  local names = { p:name() }
  while p:accept "," do
    names[#names + 1] = p:name()
  end
  p:expect "in"
  local source = p:either()
  local condition = p:accept "if" and p:expression()
  if p:accept "recursive" then
    p:fail "recursive loops are not built"
  end
  local body, stop = parse_body(reader, { "else", "endfor" })
  local other = stop == "else" and parse_body(reader, { "endfor" })

  local function assign(ctx, v)
    if #names == 1 then
      ctx.vars[names[1]] = v
      return
    end
    local parts = items_of(ctx, v)
    if parts.n ~= #names then
      oops(ctx, "%d names cannot take %d values", #names, parts.n)
    end
    for i, name in ipairs(names) do
      ctx.vars[name] = parts[i]
    end
  end

  return function(ctx, out)
    local all = items_of(ctx, source(ctx))
    if condition then
      local kept, probe = {}, child(ctx)
      for i = 1, all.n do
        assign(probe, all[i])
        if truthy(condition(probe)) then
          kept[#kept + 1] = all[i]
        end
      end
      all = list(kept)
    end
    if all.n == 0 then
      return other and run(other, ctx, out)
    end
    return nested(ctx, function()
      for i = 1, all.n do
        local inner = child(ctx)
        inner.vars.loop = setmetatable({
          index = i, index0 = i - 1, first = i == 1, last = i == all.n, length = all.n, revindex = all.n - i + 1,
          revindex0 = all.n - i, previtem = i > 1 and all[i - 1] or nil, nextitem = all[i + 1],
          cycle = function(_, a) return a[(i - 1) % #a + 1] end,
        }, Object)
        assign(inner, all[i])
        if run(body, inner, out) == "break" then
          break
        end
      end
    end)
  end
end

statements["break"] = function() return function() return "break" end end
statements["continue"] = function() return function() return "continue" end end

statements.set = function(reader, p)
  local name = p:name()
  local field = p:accept "." and p:name()
  local names = { name }
  while not field and p:accept "," do
    names[#names + 1] = p:name()
  end
  if p:accept "=" then
    local value = p:expression()
    return function(ctx)
      local v = value(ctx)
      if field then
        local target = ctx.vars[name]
        if class(target) ~= Object then
          oops(ctx, "'%s' is no namespace", name)
        end
        target[field] = v
      elseif #names > 1 then
        local parts = items_of(ctx, v)
        for i, n in ipairs(names) do
          ctx.vars[n] = parts[i]
        end
      else
        ctx.vars[name] = v
      end
    end
  end
  local body = parse_body(reader, { "endset" })
  return function(ctx)
    local out = { bytes = 0 }
    run(body, ctx, out)
    ctx.vars[name] = join(out)
  end
end

statements.macro = function(reader, p)
  local name, params = p:name(), {}
  p:expect "("
  while not p:accept ")" do
    local param = { name = p:name() }
    if p:accept "=" then
      param.default = p:expression()
    end
    params[#params + 1] = param
    if not p:peek ")" then
      p:expect ","
    end
  end
  local body = parse_body(reader, { "endmacro" })
  return function(ctx)
    ctx.vars[name] = function(caller, args, named)
      local inner, out = child(ctx), { bytes = 0 }
      inner.line = caller.line
      for i, param in ipairs(params) do
        local v = args[i]
        if v == nil then
          v = named[param.name]
        end
        if v == nil then
          v = param.default and param.default(inner) or undefined(param.name)
        end
        inner.vars[param.name] = v
      end
      nested(caller, function() run(body, inner, out) end)
      return join(out)
    end
  end
end

--- The reference's own tag: marks what the assistant says; it prints as it is.
statements.generation = function(reader)
  local body = parse_body(reader, { "endgeneration" })
  return function(ctx, out) return run(body, ctx, out) end
end

---- the request

local json_unescape = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function utf8(cp)
  if cp < 0x80 then
    return string.char(cp)
  elseif cp < 0x800 then
    return string.char(0xc0 + floor(cp / 64), 0x80 + cp % 64)
  elseif cp < 0x10000 then
    return string.char(0xe0 + floor(cp / 4096), 0x80 + floor(cp / 64) % 64, 0x80 + cp % 64)
  end
  return string.char(0xf0 + floor(cp / 262144), 0x80 + floor(cp / 4096) % 64, 0x80 + floor(cp / 64) % 64, 0x80 + cp % 64)
end

--- Text that C has checked already, as values whose strings are not trusted; dicts keep their order.
local function decode(src, at)
  at = src:match("^[ \n\r\t]*()", at)
  local c = src:sub(at, at)
  if c == '"' then
    local parts, i = {}, at + 1
    while true do
      local stop = src:find('["\\]', i)
      parts[#parts + 1] = src:sub(i, stop - 1)
      if src:sub(stop, stop) == '"' then
        return untrusted(concat(parts)), stop + 1
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
        parts[#parts + 1] = json_unescape[e] or e
        i = stop + 2
      end
    end
  elseif c == "{" or c == "[" then
    local out, n = c == "{" and dict() or list {}, 0
    local close = c == "{" and "}" or "]"
    at = src:match("^[ \n\r\t]*()", at + 1)
    while src:sub(at, at) ~= close do
      local key
      if c == "{" then
        key, at = decode(src, at)
        at = src:match("^[ \n\r\t]*:()", at)
      end
      local v
      v, at = decode(src, at)
      if c == "{" then
        dict_set(out, key, v)
      else
        n = n + 1
        out[n] = v
      end
      at = src:match("^[ \n\r\t]*,?[ \n\r\t]*()", at)
    end
    if c == "[" then
      out.n = n
    end
    return out, at + 1
  end
  local word, after = src:match("^([%w+.-]+)()", at)
  if word == "true" then
    return true, after
  elseif word == "false" then
    return false, after
  elseif word == "null" then
    return NONE, after
  end
  return tonumber(word), after
end

local function invalid(...)
  error({ code = "invalid_argument", message = string.format(...) }, 0)
end

--- A list of text parts becomes one text, unless the template looks into lists itself.
local function content_of(v, path, keep_lists)
  if v == nil or v == NONE or is_string(v) then
    return v
  elseif class(v) ~= List then
    invalid("%s: must be a string, null or a list of parts", path)
  end
  local parts = {}
  for i = 1, v.n do
    local part, where = v[i], string.format("%s[%d]", path, i - 1)
    if class(part) ~= Dict then
      invalid("%s: must be an object", where)
    end
    local kind = part.vals.type
    if not kind or not is_string(kind) then
      invalid("%s.type: must be a string", where)
    elseif text(kind) ~= "text" then
      invalid("%s.type: parts of type '%s' are not supported; only 'text' is", where, text(kind))
    elseif not is_string(part.vals.text or NONE) then
      invalid("%s.text: must be a string", where)
    end
    parts[#parts + 1] = i > 1 and untrusted "\n" or nil
    parts[#parts + 1] = part.vals.text
  end
  return keep_lists and v or join(parts)
end

local function check_request(request, keep_lists)
  if class(request) ~= Dict then
    invalid "the request must be an object with 'messages'"
  end
  local messages = request.vals.messages
  if messages == nil then
    invalid "messages: is required"
  elseif class(messages) ~= List then
    invalid "messages: must be a list"
  elseif messages.n == 0 then
    invalid "messages: must hold at least one message"
  elseif messages.n > 2048 then
    invalid("messages: %d are too many; the most is 2048", messages.n)
  end
  for i = 1, messages.n do
    local m, path = messages[i], string.format("messages[%d]", i - 1)
    if class(m) ~= Dict then
      invalid("%s: must be an object", path)
    elseif not is_string(m.vals.role or NONE) then
      invalid("%s.role: must be a string", path)
    end
    local content = content_of(m.vals.content, path .. ".content", keep_lists)
    if content ~= nil then
      m.vals.content = content
    elseif not m.vals.tool_calls then
      invalid("%s.content: is required", path)
    end
  end
  local tools = request.vals.tools
  if tools ~= nil and tools ~= NONE then
    if class(tools) ~= List then
      invalid "tools: must be a list"
    elseif tools.n > 128 then
      invalid("tools: %d are too many; the most is 128", tools.n)
    end
  end
  local kwargs = request.vals.template_kwargs
  if kwargs ~= nil and kwargs ~= NONE and class(kwargs) ~= Dict then
    invalid "template_kwargs: must be an object"
  end
end

---- the way in

---@class moonpool.Template
---@field body function[]
---@field keep_lists boolean   the template looks into lists of parts itself

--- Reads a template. Raises { code, message }.
---@param src string
---@return moonpool.Template
function M.parse(src)
  state = { steps = math.huge, output = math.huge, depth = math.huge }
  local reader = { nodes = lex(src), at = 1, depth = 0 }
  return {
    body = parse_body(reader),
    keep_lists = src:find("content is string", 1, true) ~= nil or src:find("content is iterable", 1, true) ~= nil
      or src:find("'content'] is string", 1, true) ~= nil or src:find("content is not string", 1, true) ~= nil,
  }
end

---@class moonpool.TemplateLimits
---@field steps integer
---@field output integer   bytes
---@field depth integer
---@field now integer      seconds since 1970, for strftime_now

--- Renders for a request (JSON that was checked). Returns the text, and for each byte of it "\1" (trusted) or "\0".
---@param template moonpool.Template
---@param json string
---@param bos string
---@param eos string
---@param limits moonpool.TemplateLimits
---@return string text, string trust
function M.render(template, json, bos, eos, limits)
  state = { steps = limits.steps, output = limits.output, depth = limits.depth }
  local request = decode(json, 1)
  check_request(request, template.keep_lists)
  local vars = {}
  local kwargs = request.vals.template_kwargs
  if class(kwargs) == Dict then
    for _, k in ipairs(kwargs.keys) do
      vars[text(k)] = dict_get(kwargs, k)
    end
  end
  local generate = request.vals.add_generation_prompt
  vars.messages = request.vals.messages
  vars.tools = request.vals.tools or NONE
  vars.add_generation_prompt = generate == nil or generate == NONE or truthy(generate)
  vars.bos_token, vars.eos_token = bos, eos
  vars.namespace = function(_, _, named) return setmetatable(named, Object) end
  vars.dict = function(_, _, named)
    local d = dict()
    for k, v in pairs(named) do
      dict_set(d, k, v)
    end
    return d
  end
  vars.range = function(ctx, a)
    local from, to, step = a[2] and a[1] or 0, a[2] or a[1], a[3] or 1
    if type(from) ~= "number" or type(to) ~= "number" or type(step) ~= "number" or step == 0 then
      oops(ctx, "range needs whole numbers")
    end
    local out = {}
    for i = from, step > 0 and to - 1 or to + 1, step do
      tick()
      out[#out + 1] = i
    end
    return list(out)
  end
  vars.raise_exception = function(_, a) return refuse(text(printed(a[1]))) end
  vars.strftime_now = function(ctx, a)
    local format = chars_of(ctx, a[1]) or ""
    if format:gsub("%%%-?[aAbBcdHIjmMpSUwWxXyYZ%%]", ""):find("%", 1, true) then
      oops(ctx, "strftime_now: the format '%s' is not supported", format)
    end
    local t = os.date("!*t", limits.now)
    format = format:gsub("%%%-([dmHI])", function(k)
      return tostring(({ d = t.day, m = t.month, H = t.hour, I = (t.hour + 11) % 12 + 1 })[k])
    end)
    return os.date("!" .. format, limits.now)
  end
  local out = { bytes = 0 }
  run(template.body, { vars = vars, line = 1 }, out)
  local whole = join(out)
  return text(whole), mask(whole)
end

return M
