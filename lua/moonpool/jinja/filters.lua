--- lua/moonpool/jinja/filters.lua: filters and tests, as jinja2's (tojson as transformers'). Used by moonpool.jinja.parser.
local V = require "moonpool.jinja.value"
local methods = require "moonpool.jinja.methods"
local M = {}

local class, text, sub, join, is_string, kind = V.class, V.text, V.sub, V.join, V.is_string, V.kind
local list, tuple, tick, oops, num, str, NONE = V.list, V.tuple, V.tick, V.oops, V.num, V.str, V.NONE
local List, Dict, Undef, Macro = V.List, V.Dict, V.Undef, V.Macro
local floor, abs = math.floor, math.abs

-- ---- tests: function(ctx, value, arguments) -> boolean --------------------------------------------------------------

local tests = {}
M.tests = tests

local function need_number(ctx, v, what)
  local n, float = num(v)
  if not n then
    oops(ctx, "%s needs a number, not %s", what, kind(v))
  end
  return n, float
end

local function is_int(v)
  local n, float = num(v)
  return n ~= nil and not float and type(v) ~= "boolean"
end

function tests.defined(_, v) return class(v) ~= Undef end
function tests.undefined(_, v) return class(v) == Undef end
function tests.none(_, v) return v == NONE end
function tests.string(_, v) return is_string(v) end
function tests.mapping(_, v) return class(v) == Dict end
function tests.iterable(_, v) return is_string(v) or class(v) == List or class(v) == Dict or class(v) == Undef end
tests.sequence = tests.iterable
function tests.number(_, v) return num(v) ~= nil end
function tests.integer(_, v) return is_int(v) end
function tests.float(_, v) return num(v) ~= nil and select(2, num(v)) end
function tests.boolean(_, v) return type(v) == "boolean" end
tests["true"] = function(_, v) return v == true end
tests["false"] = function(_, v) return v == false end
function tests.callable(_, v) return type(v) == "function" or class(v) == Macro end
function tests.odd(ctx, v) return need_number(ctx, v, "odd") % 2 == 1 end
function tests.even(ctx, v) return need_number(ctx, v, "even") % 2 == 0 end
function tests.divisibleby(ctx, v, a)
  local by = need_number(ctx, a[1], "divisibleby")
  if by == 0 then
    oops(ctx, "division by zero")
  end
  return need_number(ctx, v, "divisibleby") % by == 0
end
function tests.eq(_, v, a) return V.equal(v, a[1]) end
function tests.ne(_, v, a) return not V.equal(v, a[1]) end
function tests.lt(ctx, v, a) return V.less(ctx, v, a[1]) end
function tests.gt(ctx, v, a) return V.less(ctx, a[1], v) end
function tests.le(ctx, v, a) return V.less(ctx, v, a[1]) or V.equal(v, a[1]) end
function tests.ge(ctx, v, a) return V.less(ctx, a[1], v) or V.equal(v, a[1]) end
tests.equalto, tests["=="], tests["!="] = tests.eq, tests.eq, tests.ne
tests.lessthan, tests["<"], tests["<="] = tests.lt, tests.lt, tests.le
tests.greaterthan, tests[">"], tests[">="] = tests.gt, tests.gt, tests.ge
function tests.sameas(_, v, a)
  return type(v) == type(a[1]) and V.equal(v, a[1]) and (type(v) ~= "table" or is_string(v) or v == a[1])
end
tests["in"] = function(ctx, v, a) return V.contains(ctx, a[1], v) end
function tests.lower(ctx, v) return methods.strings.islower(ctx, str(v)) end
function tests.upper(ctx, v) return methods.strings.isupper(ctx, str(v)) end
function tests.escaped() return false end
function tests.filter(_, v) return is_string(v) and M.filters[text(v)] ~= nil end
function tests.test(_, v) return is_string(v) and tests[text(v)] ~= nil end

--- How many arguments beside the value a test needs: with fewer it is an error.
M.test_needs = {}
for _, name in ipairs { "divisibleby", "eq", "ne", "lt", "gt", "le", "ge", "equalto", "sameas", "in", "lessthan", "greaterthan", "==", "!=",
  "<", ">", "<=", ">=" } do
  M.test_needs[name] = 1
end

--- Runs a test by name, as select and its like do.
function M.test(ctx, name, v, arguments)
  local test = tests[name] or oops(ctx, "no test '%s'", name)
  if M.test_needs[name] and arguments[1] == nil then
    oops(ctx, "the test '%s' needs something to compare with", name)
  end
  return test(ctx, v, arguments)
end

-- ---- filters: function(ctx, value, arguments, named) -> value -------------------------------------------------------

local filters = {}
M.filters = filters

--- The argument at a place or of a name; default when it was not given.
local function argument(a, i, named, name, default)
  local v = a[i]
  if v == nil then
    v = named[name]
  end
  if v == nil then
    return default
  end
  return v
end

local function word_title(v)
  local s, parts, at = text(v), {}, 1
  -- words end at white space, '-' and opening brackets: not at apostrophes
  while at <= #s do
    local from, to = s:find("[-%s({%[<]+", at)
    local word = sub(v, at, (from or #s + 1) - 1)
    if text(word) ~= "" then
      parts[#parts + 1] = methods.capitalize(word)
    end
    if from then
      parts[#parts + 1] = sub(v, from, to)
    end
    at = to and to + 1 or #s + 1
  end
  return join(parts)
end

function filters.upper(_, v) return methods.upper(str(v)) end
function filters.lower(_, v) return methods.lower(str(v)) end
function filters.capitalize(_, v) return methods.capitalize(str(v)) end
function filters.title(_, v) return word_title(str(v)) end
function filters.trim(ctx, v, a, named)
  return methods.strip(str(v), methods.optional_text(ctx, argument(a, 1, named, "chars"), "trim"), true, true)
end
function filters.length(ctx, v) return V.length(ctx, v) end
filters.count = filters.length
function filters.string(_, v) return str(v) end
function filters.safe(_, v) return v end
function filters.center(ctx, v, a, named)
  return methods.pad(str(v), methods.optional_int(ctx, argument(a, 1, named, "width"), "center") or 80, " ", true, true)
end

local html = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ["'"] = "&#39;", ['"'] = "&#34;" }
function filters.escape(_, v)
  return methods.each_character(str(v), function(c) return html[c] or c end)
end
filters.e, filters.forceescape = filters.escape, filters.escape

function filters.indent(ctx, v, a, named)
  local width, s = argument(a, 1, named, "width", 4), str(v)
  local first, blank = argument(a, 2, named, "first", false), argument(a, 3, named, "blank", false)
  local pad = is_string(width) and width or (" "):rep(methods.optional_int(ctx, width, "indent") or 4)
  local parts, at, line = {}, 1, 1
  while true do
    local stop = text(s):find("\n", at, true)
    local piece = sub(s, at, stop or #text(s))
    if (line > 1 or V.truthy(first)) and (V.truthy(blank) or text(piece):find "^[^\n]") then
      parts[#parts + 1] = pad
    end
    parts[#parts + 1] = piece
    if not stop then
      return join(parts)
    end
    at, line = stop + 1, line + 1
  end
end

function filters.tojson(ctx, v, _, named)
  local indent, separators = named.indent, named.separators
  local style = { item = ", ", key = ": ", ascii = V.truthy(named.ensure_ascii or false), sort = V.truthy(named.sort_keys or false) }
  if indent ~= nil and indent ~= NONE then
    local n = not is_string(indent) and math.min(32, math.max(0, methods.optional_int(ctx, indent, "tojson: indent")))
    style.indent, style.item = n and (" "):rep(n) or text(indent), ","
  end
  if class(separators) == List and separators.n == 2 then
    style.item = methods.need_text(ctx, separators[1], "tojson: separators")
    style.key = methods.need_text(ctx, separators[2], "tojson: separators")
  end
  return V.untrusted(V.to_json(ctx, v, style))
end

function filters.default(_, v, a, named)
  if class(v) == Undef or (V.truthy(argument(a, 2, named, "boolean", false)) and not V.truthy(v)) then
    return argument(a, 1, named, "default_value", "")
  end
  return v
end
filters.d = filters.default

function filters.replace(ctx, v, a)
  local old, new = a[1] or oops(ctx, "replace needs two strings"), a[2] or oops(ctx, "replace needs two strings")
  return methods.replace(ctx, str(v), str(old), str(new), methods.optional_int(ctx, a[3], "replace"))
end

function filters.format(ctx, v, a, named)
  if next(named) then
    local d = V.dict()
    for name, value in pairs(named) do
      V.dict_set(ctx, d, name, value)
    end
    return methods.percent(ctx, str(v), d)
  end
  return methods.percent(ctx, str(v), tuple { unpack(a) })
end

function filters.join(ctx, v, a, named)
  local between, path = str(argument(a, 1, named, "d", "")), argument(a, 2, named, "attribute")
  local parts, all = {}, V.items_of(ctx, v)
  for i = 1, all.n do
    parts[#parts + 1] = i > 1 and between or nil
    parts[#parts + 1] = str(path ~= nil and methods.path(ctx, all[i], path) or all[i])
  end
  return join(parts)
end

function filters.first(ctx, v)
  local all = V.items_of(ctx, v)
  if all.n == 0 then
    return V.undefined "there is no first item of an empty sequence"
  end
  return all[1]
end
function filters.last(ctx, v)
  local all = V.items_of(ctx, v)
  if all.n == 0 then
    return V.undefined "there is no last item of an empty sequence"
  end
  return all[all.n]
end

local function copied(ctx, v)
  local all, out = V.items_of(ctx, v), {}
  for i = 1, all.n do
    out[i] = all[i]
  end
  tick(all.n)
  return out, all.n
end
function filters.list(ctx, v) return list(copied(ctx, v)) end
function filters.reverse(ctx, v)
  local all = V.items_of(ctx, v)
  return methods.slice(ctx, is_string(v) and v or list(copied(ctx, all)), nil, nil, -1)
end

function filters.int(_, v, a, named)
  local n, default = num(v), argument(a, 1, named, "default", 0)
  if is_string(v) then
    local s, base = text(methods.strip(v, nil, true, true)):gsub("_", ""), num(argument(a, 2, named, "base", 10))
    if base == 16 then
      s = s:gsub("^0[xX]", "")
    end
    local digits = s:match "^[+-]?(%w+)$"
    n = digits and base >= 2 and base <= 36 and tonumber(digits, base) or s:find "^[+-]?[%d.]+[eE]?[+-]?%d*$" and tonumber(s)
    if digits and n and base == 10 and #digits > 15 then
      return V.parse_number((s:gsub("^%+", "")))
    elseif digits and n and s:sub(1, 1) == "-" then
      n = -abs(n)
    end
  end
  if not n or n ~= n or abs(n) == math.huge then
    return default
  end
  return V.number(n < 0 and -floor(-n) or floor(n))
end
function filters.float(_, v, a, named)
  local n = num(v)
  if is_string(v) then
    local s = text(methods.strip(v, nil, true, true))
    n = s:find "^[+-]?[%d.]+[eE]?[+-]?%d*$" and tonumber(s)
  end
  if not n then
    return argument(a, 1, named, "default", V.number(0, true))
  end
  return V.number(n, true)
end
function filters.abs(ctx, v)
  local n, float = need_number(ctx, v, "abs")
  return n >= 0 and v or V.number(-n, float)
end

--- n to so many decimals; exactly halfway between two goes to the even one, as in Python.
local function round_even(n, digits)
  local s = string.format("%.60f", n)
  local kept, rest = s:match("^(-?%d+%." .. ("%d"):rep(digits) .. ")(%d*)$")
  if rest:find "^50*$" and kept:match "(%d)%.?$":find "[02468]" then
    return tonumber(kept)
  end
  return tonumber(string.format("%." .. digits .. "f", n))
end

function filters.round(ctx, v, a, named)
  local n, float = need_number(ctx, v, "round")
  local digits = methods.optional_int(ctx, argument(a, 1, named, "precision", 0), "round") or 0
  local how = text(str(argument(a, 2, named, "method", "common")))
  local scale = 10 ^ digits
  if how == "ceil" then
    return V.number(math.ceil(n * scale) / scale, true)
  elseif how == "floor" then
    return V.number(floor(n * scale) / scale, true)
  elseif how ~= "common" then
    oops(ctx, "round: the method is 'common', 'ceil' or 'floor'")
  elseif not float then
    return v
  end
  return V.number(round_even(n, math.min(20, math.max(0, digits))), true)
end

--- The sum of the items, or of a member of theirs, from `start` on.
function filters.sum(ctx, v, a, named)
  local path, total = argument(a, 1, named, "attribute"), argument(a, 2, named, "start", 0)
  local all = V.items_of(ctx, v)
  for i = 1, all.n do
    total = M.operate(ctx, "+", total, path ~= nil and path ~= NONE and methods.path(ctx, all[i], path) or all[i])
  end
  return total
end

--- What values are put in order by: a member of theirs, letters without their case.
local function ordering(path, case_sensitive)
  return function(ctx, v)
    if path ~= nil and path ~= NONE then
      v = methods.path(ctx, v, path)
    end
    return is_string(v) and not case_sensitive and methods.lower(v) or v
  end
end

local function sorted(ctx, items, n, key, reverse)
  local keyed = {}
  for i = 1, n do
    keyed[i] = { key(ctx, items[i]), items[i] }
  end
  V.sort(keyed, n, function(x, y)
    if reverse then
      return V.less(ctx, y[1], x[1])
    end
    return V.less(ctx, x[1], y[1])
  end)
  for i = 1, n do
    keyed[i] = keyed[i][2]
  end
  return list(keyed, n)
end

function filters.sort(ctx, v, a, named)
  local items, n = copied(ctx, v)
  local key = ordering(argument(a, 3, named, "attribute"), V.truthy(argument(a, 2, named, "case_sensitive", false)))
  return sorted(ctx, items, n, key, V.truthy(argument(a, 1, named, "reverse", false)))
end
function filters.dictsort(ctx, v, a, named)
  if class(v) ~= Dict then
    oops(ctx, "dictsort needs a dict, not %s", kind(v))
  end
  local items = methods.dicts.items(ctx, v)
  local at = text(str(argument(a, 2, named, "by", "key"))) == "value" and 1 or 0
  return sorted(ctx, items, items.n, ordering(at, V.truthy(argument(a, 1, named, "case_sensitive", false))),
    V.truthy(argument(a, 3, named, "reverse", false)))
end
function filters.items(ctx, v)
  if class(v) == Undef then
    return list {}
  elseif class(v) ~= Dict then
    oops(ctx, "items needs a dict, not %s", kind(v))
  end
  return methods.dicts.items(ctx, v)
end

local function extreme(ctx, v, a, named, most)
  local all = V.items_of(ctx, v)
  local key = ordering(argument(a, 2, named, "attribute"), V.truthy(argument(a, 1, named, "case_sensitive", false)))
  local best, best_key
  for i = 1, all.n do
    local k = key(ctx, all[i])
    if best == nil or (most and V.less(ctx, best_key, k)) or (not most and V.less(ctx, k, best_key)) then
      best, best_key = all[i], k
    end
  end
  if best == nil then
    return V.undefined "an empty sequence has no such item"
  end
  return best
end
function filters.max(ctx, v, a, named) return extreme(ctx, v, a, named, true) end
function filters.min(ctx, v, a, named) return extreme(ctx, v, a, named, false) end

function filters.unique(ctx, v, a, named)
  local all, seen, out = V.items_of(ctx, v), V.dict(), {}
  local key = ordering(argument(a, 2, named, "attribute"), V.truthy(argument(a, 1, named, "case_sensitive", false)))
  for i = 1, all.n do
    tick()
    local k = key(ctx, all[i])
    if V.dict_get(ctx, seen, k) == nil then
      V.dict_set(ctx, seen, k, true)
      out[#out + 1] = all[i]
    end
  end
  return list(out)
end

function filters.attr(ctx, v, a)
  local name = methods.need_text(ctx, a[1], "attr")
  if class(v) == Dict and not methods.dicts[name] then
    return V.undefined(("a dict has no '%s'"):format(name))
  end
  return methods.attribute(ctx, v, name)
end

function filters.map(ctx, v, a, named)
  local all, out = V.items_of(ctx, v), {}
  for i = 1, all.n do
    tick()
    if named.attribute ~= nil then
      local got = methods.path(ctx, all[i], named.attribute)
      if class(got) == Undef and named.default ~= nil then
        got = named.default
      end
      out[i] = got
    else
      local name = methods.need_text(ctx, a[1], "map")
      local filter = filters[name] or oops(ctx, "no filter '%s'", name)
      out[i] = filter(ctx, all[i], { unpack(a, 2) }, named)
    end
  end
  return list(out, all.n)
end

--- select, reject and their forms by a member.
local function chooser(by_member, wanted)
  return function(ctx, v, a)
    local all, out, at = V.items_of(ctx, v), {}, by_member and 2 or 1
    local name = a[at] ~= nil and methods.need_text(ctx, a[at], "a test") or nil
    local arguments = { unpack(a, at + 1) }
    if by_member and a[1] == nil then
      oops(ctx, "selectattr and rejectattr need a member's name")
    end
    for i = 1, all.n do
      tick()
      local value = all[i]
      if by_member then
        value = methods.path(ctx, value, a[1])
      end
      local yes
      if name then
        yes = M.test(ctx, name, value, arguments)
      else
        yes = V.truthy(value)
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

-- ---- operators ------------------------------------------------------------------------------------------------------

local function repeated(ctx, v, n)
  n = math.max(0, n)
  if is_string(v) then
    if n * #text(v) > V.state.output then
      V.too_long()
    end
    tick(floor(n * #text(v) / 64))
    return V.make(text(v):rep(n), V.mask(v):rep(n))
  end
  tick(n * v.n)
  local out, at = {}, 0
  for _ = 1, n do
    for i = 1, v.n do
      at = at + 1
      out[at] = v[i]
    end
  end
  return v.tuple and tuple(out, at) or list(out, at), ctx
end

local function zero(ctx, n)
  if n == 0 then
    oops(ctx, "division by zero")
  end
  return n
end

local arithmetic = {
  ["-"] = function(_, a, b) return a - b end,
  ["*"] = function(_, a, b) return a * b end,
  ["/"] = function(ctx, a, b) return a / zero(ctx, b), true end,
  ["//"] = function(ctx, a, b) return floor(a / zero(ctx, b)) end,
  ["%"] = function(ctx, a, b) return a - floor(a / zero(ctx, b)) * b end,
  ["**"] = function(_, a, b) return a ^ b, b < 0 end,
  ["+"] = function(_, a, b) return a + b end,
}

--- a op b for + - * / // % ** and ~.
function M.operate(ctx, op, a, b)
  tick()
  if op == "~" then
    return join { str(a), str(b) }
  end
  local na, fa = num(a)
  local nb, fb = num(b)
  if na and nb then
    local v, float = arithmetic[op](ctx, na, nb)
    return V.number(v, float or fa or fb)
  elseif op == "+" then
    if is_string(a) and is_string(b) then
      return join { a, b }
    elseif class(a) == List and class(b) == List and a.tuple == b.tuple then
      local out, n = copied(ctx, a)
      for i = 1, b.n do
        out[n + i] = b[i]
      end
      tick(b.n)
      return a.tuple and tuple(out, n + b.n) or list(out, n + b.n)
    end
    oops(ctx, "cannot add %s and %s", kind(a), kind(b))
  elseif op == "%" and is_string(a) then
    return methods.percent(ctx, a, b)
  elseif op == "*" and nb and not fb and (is_string(a) or class(a) == List) then
    return (repeated(ctx, a, nb))
  elseif op == "*" and na and not fa and (is_string(b) or class(b) == List) then
    return (repeated(ctx, b, na))
  end
  oops(ctx, "'%s' cannot take %s and %s", op, kind(a), kind(b))
end

return M
