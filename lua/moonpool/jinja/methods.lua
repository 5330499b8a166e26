--- lua/moonpool/jinja/methods.lua: the methods of strings, dicts and lists, and attribute and item access. Used by moonpool.jinja.
local V = require "moonpool.jinja.value"
local M = {}

local class, text, mask, sub, join, make, is_string = V.class, V.text, V.mask, V.sub, V.join, V.make, V.is_string
local list, tuple, tick, oops, num, kind, NONE = V.list, V.tuple, V.tick, V.oops, V.num, V.kind, V.NONE
local List, Dict, Undef, Space, Macro = V.List, V.Dict, V.Undef, V.Space, V.Macro
local floor = math.floor

-- ---- letters --------------------------------------------------------------------------------------------------------

local to_upper, to_lower = {}, {}

local function utf8(cp)
  return cp < 0x800 and string.char(0xc0 + floor(cp / 64), 0x80 + cp % 64)
    or string.char(0xe0 + floor(cp / 4096), 0x80 + floor(cp / 64) % 64, 0x80 + cp % 64)
end

local function pair(upper, lower)
  to_lower[utf8(upper)], to_upper[utf8(lower)] = utf8(lower), utf8(upper)
end

--- The alphabets with simple case pairs that chats are likely to hold: Latin, Greek, Cyrillic, Armenian.
local function fill_cases()
  for cp = 0xc0, 0xde do
    if cp ~= 0xd7 then
      pair(cp, cp + 32)
    end
  end
  for _, run in ipairs { { 0x100, 0x12e }, { 0x132, 0x136 }, { 0x14a, 0x176 }, { 0x1e00, 0x1e94 }, { 0x1ea0, 0x1efe }, { 0x460, 0x480 },
    { 0x48a, 0x4be }, { 0x4d0, 0x52e } } do
    for cp = run[1], run[2], 2 do
      pair(cp, cp + 1)
    end
  end
  for cp = 0x139, 0x147, 2 do
    pair(cp, cp + 1)
  end
  for _, cp in ipairs { 0x179, 0x17b, 0x17d } do
    pair(cp, cp + 1)
  end
  pair(0x178, 0xff)
  for cp = 0x391, 0x3a9 do
    if cp ~= 0x3a2 then
      pair(cp, cp + 32)
    end
  end
  for upper, lower in pairs { [0x386] = 0x3ac, [0x388] = 0x3ad, [0x389] = 0x3ae, [0x38a] = 0x3af, [0x38c] = 0x3cc, [0x38e] = 0x3cd,
    [0x38f] = 0x3ce } do
    pair(upper, lower)
  end
  for cp = 0x410, 0x42f do
    pair(cp, cp + 32)
  end
  for cp = 0x400, 0x40f do
    pair(cp, cp + 80)
  end
  for cp = 0x531, 0x556 do
    pair(cp, cp + 48)
  end
  to_upper["ß"], to_upper["ς"] = "SS", "Σ"
end
fill_cases()

local function upper_character(c)
  return #c == 1 and c:upper() or to_upper[c] or c
end

local function lower_character(c)
  return #c == 1 and c:lower() or to_lower[c] or c
end

local function is_letter(c)
  return #c == 1 and c:find "%a" ~= nil or to_upper[c] ~= nil or to_lower[c] ~= nil
end

--- Each character through fn(character, the one before): what it becomes is trusted if it was.
local function each_character(v, fn)
  local s = text(v)
  if V.ascii(s) and fn == upper_character then
    return type(v) == "string" and s:upper() or make(s:upper(), v.m)
  elseif V.ascii(s) and fn == lower_character then
    return type(v) == "string" and s:lower() or make(s:lower(), v.m)
  end
  local characters, n = V.split_characters(v)
  local out, before = {}, nil
  for i = 1, n do
    local c = characters[i]
    local was = text(c)
    local now = fn(was, before)
    before = was
    if type(c) == "string" then
      out[i] = now
    elseif #now == #was then
      out[i] = make(now, c.m)
    else
      out[i] = make(now, c.m:sub(1, 1):rep(#now))
    end
  end
  return join(out)
end

function M.upper(v) return each_character(v, upper_character) end
function M.lower(v) return each_character(v, lower_character) end

local function title_character(c, before)
  return (before and is_letter(before) and lower_character or upper_character)(c)
end

local function capital_character(c, before)
  return (before and lower_character or upper_character)(c)
end
function M.capitalize(v) return each_character(v, capital_character) end

-- ---- white space ----------------------------------------------------------------------------------------------------

local spaces = {}
for c in (" \t\n\r\f\v\28\29\30\31"):gmatch "." do
  spaces[c] = true
end
for _, cp in ipairs { 0x85, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000 } do
  spaces[utf8(cp)] = true
end
for cp = 0x2000, 0x200a do
  spaces[utf8(cp)] = true
end

--- The set of characters that a strip takes away.
local function strip_set(chars)
  if not chars then
    return spaces
  end
  local set = {}
  for c in chars:gmatch "[%z\1-\127\192-\255][\128-\191]*" do
    set[c] = true
  end
  return set
end

function M.strip(v, chars, left, right)
  local s, set = text(v), strip_set(chars)
  local from, to = 1, #s
  while left and from <= to do
    local c = s:match("^[%z\1-\127\192-\255][\128-\191]*", from)
    if not c or not set[c] then
      break
    end
    from = from + #c
  end
  while right and to >= from do
    local start = to
    while start > from and s:byte(start) >= 0x80 and s:byte(start) < 0xc0 do
      start = start - 1
    end
    if not set[s:sub(start, to)] then
      break
    end
    to = start - 1
  end
  tick(floor((#s - (to - from)) / 16))
  return sub(v, from, to)
end

--- The words of v: at most `most` cuts from the left, or from the right.
local function split_words(v, most, from_right)
  local s, words = text(v), {}
  local at = 1
  while at <= #s do
    local c = s:match("^[%z\1-\127\192-\255][\128-\191]*", at) or s:sub(at, at)
    local last = words[#words]
    if not spaces[c] then
      if last and last[2] == at - 1 then
        last[2] = at + #c - 1
      else
        words[#words + 1] = { at, at + #c - 1 }
      end
    end
    at = at + #c
  end
  tick(floor(#s / 4))
  local n, out = #words, {}
  if most and n > most + 1 then
    if from_right then
      local first = n - most
      out[1] = M.strip(sub(v, words[1][1], first < n and words[first + 1][1] - 1 or #s), nil, false, true)
      for i = first + 1, n do
        out[#out + 1] = sub(v, words[i][1], words[i][2])
      end
      return out
    end
    for i = 1, most do
      out[i] = sub(v, words[i][1], words[i][2])
    end
    out[most + 1] = M.strip(sub(v, words[most + 1][1], #s), nil, true, false)
    return out
  end
  for i, w in ipairs(words) do
    out[i] = sub(v, w[1], w[2])
  end
  return out
end

local function split_at(v, separator, most, from_right)
  local s, cuts, at = text(v), {}, 1
  while not most or from_right or #cuts < most do
    local from, to = s:find(separator, at, true)
    if not from then
      break
    end
    tick()
    cuts[#cuts + 1] = { from, to }
    at = to + 1
  end
  tick(floor(#s / 64))
  local out, first = {}, most and from_right and math.max(1, #cuts - most + 1) or 1
  at = 1
  for i = first, #cuts do
    out[#out + 1] = sub(v, at, cuts[i][1] - 1)
    at = cuts[i][2] + 1
  end
  out[#out + 1] = sub(v, at, #s)
  return out
end

-- ---- arguments ------------------------------------------------------------------------------------------------------

--- A string argument as text; nil when it was not given, or none.
local function optional_text(ctx, v, what)
  if v == nil or v == NONE then
    return nil
  elseif not is_string(v) then
    oops(ctx, "%s needs a string, not %s", what, kind(v))
  end
  return text(v)
end
M.optional_text = optional_text

local function need_text(ctx, v, what)
  return optional_text(ctx, v, what) or oops(ctx, "%s needs a string", what)
end
M.need_text = need_text

--- A whole number argument; nil when it was not given, or none.
local function optional_int(ctx, v, what)
  if v == nil or v == NONE then
    return nil
  end
  local n, float = num(v)
  if not n or float then
    oops(ctx, "%s needs a whole number, not %s", what, kind(v))
  end
  return n
end
M.optional_int = optional_int

--- How often something is cut or replaced; nil for "always".
local function optional_count(ctx, v, what)
  local n = optional_int(ctx, v, what)
  return n and n >= 0 and n or nil
end

-- ---- strings --------------------------------------------------------------------------------------------------------

function M.replace(ctx, v, old, new, count)
  local s, from, parts, at = text(v), need_text(ctx, old, "replace"), {}, 1
  need_text(ctx, new, "replace")
  if from == "" then
    local characters, n = V.split_characters(v)
    for i = 1, n do
      if not count or i <= count then
        parts[#parts + 1] = new
      end
      parts[#parts + 1] = characters[i]
    end
    if not count or n < count then
      parts[#parts + 1] = new
    end
    return join(parts)
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
  parts[#parts + 1] = sub(v, at, #s)
  return join(parts)
end

local function affix(ctx, v, what, at_end)
  local s = text(v)
  for _, one in ipairs(class(what) == List and what.tuple and what or { what }) do
    local t = need_text(ctx, one, at_end and "endswith" or "startswith")
    if at_end and (t == "" or s:sub(-#t) == t) or not at_end and s:sub(1, #t) == t then
      return true
    end
  end
  return false
end

--- Character index of a byte position.
local function character_index(s, byte)
  return V.length({}, s:sub(1, byte - 1))
end

local function find_last(s, t)
  local at, last = 1, nil
  while true do
    local i = s:find(t, at, true)
    if not i then
      return last
    end
    tick()
    last, at = i, i + 1
  end
end

local function finder(last, must)
  return function(ctx, v, a)
    local s, t = text(v), need_text(ctx, a[1], "find")
    local i = last and find_last(s, t) or not last and s:find(t, 1, true)
    if not i and must then
      oops(ctx, "index: the text is not there")
    end
    return i and character_index(s, i) or -1
  end
end

local function pad(v, width, fill, left, right)
  local n = width - V.length({}, v)
  if n <= 0 then
    return v
  elseif n > V.state.output then
    V.too_long()
  end
  local before = left and right and floor(n / 2) + (n % 2) * (width % 2) or left and n or 0
  tick(floor(n / 64))
  local parts = {}
  if before > 0 then
    parts[1] = make(text(fill):rep(before), mask(fill):rep(before))
  end
  parts[#parts + 1] = v
  if n > before then
    parts[#parts + 1] = make(text(fill):rep(n - before), mask(fill):rep(n - before))
  end
  return join(parts)
end
M.pad = pad

local function padder(left, right)
  return function(ctx, v, a)
    local fill = a[2] or " "
    need_text(ctx, fill, "padding")
    return pad(v, optional_int(ctx, a[1], "padding") or 0, fill, left, right)
  end
end

--- Whether every character is of the class, and there is one.
local function all_are(test)
  return function(_, v)
    local characters, n = V.split_characters(v)
    for i = 1, n do
      if not test(text(characters[i])) then
        return false
      end
    end
    return n > 0
  end
end

local function cased(other)
  return function(_, v)
    local characters, n = V.split_characters(v)
    local found = false
    for i = 1, n do
      local c = text(characters[i])
      if other(c) ~= c then
        return false
      end
      found = found or is_letter(c)
    end
    return found
  end
end

local function is_digit(c)
  return c:find "^%d$" ~= nil
end

local strings = {} -- function(ctx, self, arguments, named)
M.strings = strings
function strings.strip(ctx, v, a) return M.strip(v, optional_text(ctx, a[1], "strip"), true, true) end
function strings.lstrip(ctx, v, a) return M.strip(v, optional_text(ctx, a[1], "lstrip"), true, false) end
function strings.rstrip(ctx, v, a) return M.strip(v, optional_text(ctx, a[1], "rstrip"), false, true) end
function strings.startswith(ctx, v, a) return affix(ctx, v, a[1], false) end
function strings.endswith(ctx, v, a) return affix(ctx, v, a[1], true) end
function strings.replace(ctx, v, a, named)
  return M.replace(ctx, v, a[1], a[2], optional_count(ctx, a[3] or named.count, "replace"))
end
function strings.upper(_, v) return M.upper(v) end
function strings.lower(_, v) return M.lower(v) end
strings.casefold = strings.lower
function strings.title(_, v) return each_character(v, title_character) end
function strings.capitalize(_, v) return M.capitalize(v) end
function strings.swapcase(_, v)
  return each_character(v, function(c)
    local up = upper_character(c)
    return up ~= c and up or lower_character(c)
  end)
end
strings.find, strings.rfind, strings.index, strings.rindex = finder(false), finder(true), finder(false, true), finder(true, true)
function strings.count(ctx, v, a) return #split_at(v, need_text(ctx, a[1], "count"), nil) - 1 end
strings.center, strings.ljust, strings.rjust = padder(true, true), padder(false, true), padder(true, false)
function strings.zfill(ctx, v, a)
  local sign = text(v):match "^[+-]" or ""
  local rest = pad(sub(v, #sign + 1, #text(v)), (optional_int(ctx, a[1], "zfill") or 0) - #sign, "0", true, false)
  return join { sub(v, 1, #sign), rest }
end
function strings.removeprefix(ctx, v, a)
  local t = need_text(ctx, a[1], "removeprefix")
  return text(v):sub(1, #t) == t and sub(v, #t + 1, #text(v)) or v
end
function strings.removesuffix(ctx, v, a)
  local t = need_text(ctx, a[1], "removesuffix")
  return t ~= "" and text(v):sub(-#t) == t and sub(v, 1, #text(v) - #t) or v
end
strings.isalpha, strings.isdigit = all_are(is_letter), all_are(is_digit)
strings.isnumeric, strings.isdecimal = strings.isdigit, strings.isdigit
strings.isalnum = all_are(function(c) return is_letter(c) or is_digit(c) end)
strings.isspace = all_are(function(c) return spaces[c] ~= nil end)
strings.islower, strings.isupper = cased(lower_character), cased(upper_character)

local function splitter(from_right)
  return function(ctx, v, a, named)
    local separator = optional_text(ctx, a[1] or named.sep, "split")
    local most = optional_count(ctx, a[2] or named.maxsplit, "split")
    if separator == "" then
      oops(ctx, "split needs a separator that is not empty")
    end
    return list(separator and split_at(v, separator, most, from_right) or split_words(v, most, from_right))
  end
end
strings.split, strings.rsplit = splitter(false), splitter(true)

function strings.splitlines(_, v, a)
  local s, out, at = text(v), {}, 1
  while at <= #s do
    local stop, to = s:find("\r\n", at, true)
    local one = s:find("[\n\r\v\f]", at)
    if not stop or (one and one < stop) then
      stop, to = one, one
    end
    tick()
    out[#out + 1] = sub(v, at, stop and (V.truthy(a[1] or false) and to or stop - 1) or #s)
    at = to and to + 1 or #s + 1
  end
  return list(out)
end

local function partition(last)
  return function(ctx, v, a)
    local s, t = text(v), need_text(ctx, a[1], "partition")
    local i = last and find_last(s, t) or not last and s:find(t, 1, true)
    if not i then
      return tuple(last and { "", "", v } or { v, "", "" })
    end
    return tuple { sub(v, 1, i - 1), sub(v, i, i + #t - 1), sub(v, i + #t, #s) }
  end
end
strings.partition, strings.rpartition = partition(false), partition(true)

function strings.join(ctx, v, a)
  local parts, all = {}, V.items_of(ctx, a[1] or oops(ctx, "join needs a list"))
  for i = 1, all.n do
    if not is_string(all[i]) then
      oops(ctx, "join: item %d is %s; a string is needed", i - 1, kind(all[i]))
    end
    parts[#parts + 1] = i > 1 and v or nil
    parts[#parts + 1] = all[i]
  end
  return join(parts)
end

-- ---- formats --------------------------------------------------------------------------------------------------------

--- One value by a conversion of "%": flags, width and precision as in C.
local function converted(ctx, v, flags, width, precision, conversion)
  local out
  if conversion == "s" or conversion == "r" then
    out = conversion == "s" and V.str(v) or V.untrusted(V.repr(v))
    if precision then
      local starts, n = V.characters(text(out))
      out = precision < n and sub(out, 1, starts[precision + 1] - 1) or out
    end
  else
    local n = num(v) or oops(ctx, "the format %%%s needs a number, not %s", conversion, kind(v))
    if conversion == "d" or conversion == "i" or conversion == "u" then
      n, conversion = n < 0 and -floor(-n) or floor(n), "d"
    end
    local zero = flags:find "0" and not flags:find "-"
    local spec = "%" .. flags:gsub("[0-]", "") .. (zero and width and "0" .. math.min(width, 90) or "")
      .. (precision and "." .. math.min(precision, 60) or "")
    out = conversion == "d" and spec:find "^%%$" and V.number_text(V.number(n)) or string.format(spec .. conversion, n)
  end
  return width and pad(out, width, " ", not flags:find "-", flags:find "-" ~= nil) or out
end

--- Python's `format % values`.
function M.percent(ctx, v, values)
  local s, parts, at, used = text(v), {}, 1, 0
  local all = class(values) == List and values.tuple and values or { values, n = 1 }
  while true do
    local from = s:find("%", at, true)
    if not from then
      break
    end
    tick()
    parts[#parts + 1] = sub(v, at, from - 1)
    local name, flags, width, precision, conversion, stop = s:match("^%%(%b())([-+ #0]*)(%d*)%.?(%d*)([sdiufFgGexXor%%])()", from)
    if not name then
      flags, width, precision, conversion, stop = s:match("^%%([-+ #0]*)(%d*)%.?(%d*)([sdiufFgGexXor%%])()", from)
    end
    if not conversion or #width > 6 or #precision > 6 then
      oops(ctx, "a format that is not known")
    end
    if conversion == "%" then
      parts[#parts + 1] = sub(v, from, from)
    else
      local value
      if name then
        value = class(values) == Dict and V.dict_get(ctx, values, name:sub(2, -2))
      else
        used = used + 1
        value = all[used]
      end
      if value == nil then
        oops(ctx, "a format has fewer values than places")
      end
      parts[#parts + 1] = converted(ctx, value, flags, tonumber(width), tonumber(precision), conversion == "F" and "f" or conversion)
    end
    at = stop
  end
  if used < all.n and class(values) ~= Dict then
    oops(ctx, "a format has more values than places")
  end
  parts[#parts + 1] = sub(v, at, #s)
  return join(parts)
end

--- str.format with {}, {0} and {name}, without conversions.
function strings.format(ctx, v, a, named)
  local s, parts, at, next_index = text(v), {}, 1, 1
  while true do
    local from = s:find("[{}]", at)
    if not from then
      break
    end
    tick()
    parts[#parts + 1] = sub(v, at, from - 1)
    local two = s:sub(from, from + 1)
    if two == "{{" or two == "}}" then
      parts[#parts + 1] = sub(v, from, from)
      at = from + 2
    else
      local name, stop = s:match("^{([%w_]*)}()", from)
      local value
      if name == "" then
        value, next_index = a[next_index], next_index + 1
      elseif name then
        value = name:find "^%d+$" and a[tonumber(name) + 1] or named[name]
      end
      if value == nil then
        oops(ctx, "format: a place that is not known, or has no value")
      end
      parts[#parts + 1] = V.str(value)
      at = stop
    end
  end
  parts[#parts + 1] = sub(v, at, #s)
  return join(parts)
end

-- ---- dicts and lists ------------------------------------------------------------------------------------------------

local dicts = {}
M.dicts = dicts
function dicts.items(ctx, d)
  local out = {}
  for i, k in ipairs(d.keys) do
    out[i] = tuple { k, V.dict_get(ctx, d, k) }
  end
  tick(#out)
  return list(out)
end
function dicts.keys(ctx, d) return V.items_of(ctx, d) end
function dicts.values(ctx, d)
  local out = {}
  for i, k in ipairs(d.keys) do
    out[i] = V.dict_get(ctx, d, k)
  end
  tick(#out)
  return list(out)
end
function dicts.get(ctx, d, a)
  local v = V.dict_get(ctx, d, a[1] == nil and NONE or a[1])
  if v == nil then
    v = a[2]
  end
  if v == nil then
    return NONE
  end
  return v
end
function dicts.copy(ctx, d)
  local out = V.dict()
  for _, k in ipairs(d.keys) do
    V.dict_set(ctx, out, k, V.dict_get(ctx, d, k))
  end
  return out
end

local lists = {}
M.lists = lists
function lists.index(ctx, l, a)
  for i = 1, l.n do
    if V.equal(l[i], a[1]) then
      return i - 1
    end
  end
  oops(ctx, "index: the value is not there")
end
function lists.count(_, l, a)
  local n = 0
  for i = 1, l.n do
    n = n + (V.equal(l[i], a[1]) and 1 or 0)
  end
  return n
end

--- What changes a value: the reference's sandbox refuses these.
local changing = {}
for _, name in ipairs { "append", "extend", "insert", "pop", "remove", "clear", "reverse", "sort", "update", "setdefault", "popitem" } do
  changing[name] = true
end

local function method_of(c, v, name)
  local own = is_string(v) and strings[name] or c == Dict and dicts[name] or c == List and lists[name]
  if own then
    return function(ctx, args, named) return own(ctx, v, args, named) end
  elseif (c == Dict or c == List) and changing[name] then
    return function(ctx) oops(ctx, "'%s' would change a value, which templates may not", name) end
  end
end

--- Characters from..to-1 of a string, counted from 0.
function M.characters(v, from, to)
  if V.ascii(text(v)) then
    return sub(v, from + 1, to)
  end
  local starts = V.characters(text(v))
  return sub(v, starts[from + 1], starts[to + 1] - 1)
end

--- v.name, in the order of jinja2: what the value has itself, then its members.
function M.attribute(ctx, v, name)
  local c = class(v)
  if c == Undef then
    oops(ctx, "%s", v.why)
  end
  local got
  if c == Space then
    got = v[name]
  elseif c == Macro then
    got = name == "name" and v.name or nil
  else
    got = method_of(c, v, name)
    if got == nil and c == Dict then
      got = v.vals[name]
    end
  end
  if got ~= nil then
    return got
  end
  return V.undefined(("%s has no '%s'"):format(kind(v), name))
end

--- v[k]: members first, then what the value has itself.
function M.item(ctx, v, k)
  local c, got = class(v), nil
  if c == Undef then
    oops(ctx, "%s", v.why)
  elseif c == Dict then
    if class(k) ~= List and class(k) ~= Dict then
      got = V.dict_get(ctx, v, k)
    end
  elseif c == List or is_string(v) then
    local i, float = num(k)
    if i and not float and c == List then
      got = v[i >= 0 and i + 1 or v.n + i + 1]
    elseif i and not float then
      local n = V.length(ctx, v)
      i = i < 0 and i + n or i
      got = i >= 0 and i < n and M.characters(v, i, i + 1) or nil
    end
  end
  if got == nil and is_string(k) then
    return M.attribute(ctx, v, text(k))
  elseif got ~= nil then
    return got
  end
  return V.undefined(("%s has no such element"):format(kind(v)))
end

--- A path like "a.b.0", as map and its like take it.
function M.path(ctx, v, path)
  if not is_string(path) then
    return M.item(ctx, v, path)
  end
  for part in (text(path) .. "."):gmatch "(.-)%." do
    v = M.item(ctx, v, part:find "^%d+$" and tonumber(part) or part)
  end
  return v
end

function M.slice(ctx, v, from, to, step)
  local by = optional_int(ctx, step, "a slice") or 1
  if class(v) ~= List and not is_string(v) then
    oops(ctx, "%s cannot be sliced", kind(v))
  elseif by == 0 then
    oops(ctx, "a slice's step cannot be 0")
  end
  local n = V.length(ctx, v)
  local function clamp(value, default, low, high)
    local i = optional_int(ctx, value, "a slice")
    if not i then
      return default
    end
    i = i < 0 and i + n or i
    return i < low and low or i > high and high or i
  end
  local a = by > 0 and clamp(from, 0, 0, n) or clamp(from, n - 1, -1, n - 1)
  local b = by > 0 and clamp(to, n, 0, n) or clamp(to, -1, -1, n - 1)
  if is_string(v) and by == 1 then
    return a < b and M.characters(v, a, b) or ""
  end
  local all, out = V.items_of(ctx, v), {}
  for i = a, by > 0 and b - 1 or b + 1, by do
    tick()
    out[#out + 1] = all[i + 1]
  end
  if is_string(v) then
    return join(out)
  end
  return v.tuple and tuple(out) or list(out)
end

M.each_character = each_character
return M
