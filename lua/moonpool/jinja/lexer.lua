--- lua/moonpool/jinja/lexer.lua: a template's text as tags and what stands between them, white space controlled as jinja2 does
--- with trim_blocks and lstrip_blocks. Used by moonpool.jinja.
local utf8 = require("moonpool.jinja.value").utf8
local concat = table.concat

local MAX_TOKENS, MAX_TAGS = 4096, 32768 -- of one tag; of a template

local function fail(line, format, ...)
  error({ code = "bad_format", message = string.format("chat template, line %d: " .. format, line, ...) }, 0)
end

local two = { ["=="] = true, ["!="] = true, ["<="] = true, [">="] = true, ["//"] = true, ["**"] = true }
local escapes = {
  n = "\n", t = "\t", r = "\r", b = "\b", f = "\f", v = "\v", a = "\a", ["\\"] = "\\", ["'"] = "'", ['"'] = '"', ["\n"] = "",
}
local closes = { ["("] = ")", ["["] = "]", ["{"] = "}" }

local function newlines(s)
  return select(2, s:gsub("\n", ""))
end

--- A string literal that begins at `at`; its text, and where it ends.
local function string_literal(src, at, line)
  local quote, parts, i = src:sub(at, at), {}, at + 1
  while true do
    local stop = src:find("[\\" .. quote .. "]", i)
    if not stop then
      fail(line, "a string is not closed")
    end
    parts[#parts + 1] = src:sub(i, stop - 1)
    if src:sub(stop, stop) == quote then
      return concat(parts), stop + 1
    end
    local e = src:sub(stop + 1, stop + 1)
    local hex = e == "x" and src:match("^%x%x", stop + 2) or e == "u" and src:match("^%x%x%x%x", stop + 2)
      or e == "U" and src:match("^000%x%x%x%x%x", stop + 2)
    local octal = src:match("^[0-7][0-7]?[0-7]?", stop + 1)
    if hex then
      parts[#parts + 1] = utf8(tonumber(hex, 16))
      i = stop + 2 + #hex
    elseif octal then
      parts[#parts + 1] = utf8(tonumber(octal, 8))
      i = stop + 1 + #octal
    else
      parts[#parts + 1] = escapes[e] or "\\" .. e
      i = stop + 2
    end
  end
end

--- A number that begins at `at`, as plain digits, and where it ends.
local function number_literal(src, at)
  local prefix, digits = src:match("^0([xXbBoO])([%x_]+)", at)
  if prefix then
    local base = ({ x = 16, b = 2, o = 8 })[prefix:lower()]
    local v = tonumber((digits:gsub("_", "")), base)
    if v then
      return ("%.0f"):format(v), at + 2 + #digits
    end
  end
  local whole = src:match("^%d[%d_]*", at)
  local rest = src:match("^%.%d[%d_]*[eE][+-]?%d+", at + #whole) or src:match("^%.%d[%d_]*", at + #whole)
    or src:match("^[eE][+-]?%d+", at + #whole) or ""
  return ((whole .. rest):gsub("_", "")), at + #whole + #rest
end

--- The tokens of one tag from `at` to its closing mark: tokens, where the tag ends, the sign before the mark, the line there.
local function tag(src, at, close, line)
  local out, open = {}, {}
  while true do
    local from = src:match("^%s*()", at)
    line = line + newlines(src:sub(at, from - 1))
    at = from
    local sign = src:match("^[-+]", at) or ""
    if #open == 0 and src:sub(at + #sign, at + #sign + 1) == close then
      return out, at + #sign + 2, sign, line
    end
    local c, token = src:sub(at, at), nil
    local word = src:match("^[%a_][%w_]*", at)
    if c == "" then
      fail(line, "a tag is not closed: '%s' is missing", close)
    elseif word then
      token = { kind = "name", value = word }
      at = at + #word
    elseif c:find "%d" then
      token = { kind = "number" }
      token.value, at = number_literal(src, at)
    elseif c == "'" or c == '"' then
      token = { kind = "string" }
      local start = at
      token.value, at = string_literal(src, at, line)
      token.lines = newlines(src:sub(start, at - 1))
    else
      local op = src:sub(at, at + 1)
      op = two[op] and op or c
      if not op:find "^[-+*/%%~=<>!()%[%]{},.:|;]" or op == "!" then
        fail(line, "unexpected character '%s'", c)
      elseif closes[op] then
        open[#open + 1] = closes[op]
      elseif op == ")" or op == "]" or op == "}" then
        if open[#open] ~= op then
          fail(line, "unexpected '%s'", op)
        end
        open[#open] = nil
      end
      token = { kind = "op", value = op }
      at = at + #op
    end
    token.line = line
    line = line + (token.lines or 0)
    out[#out + 1] = token
    if #out > MAX_TOKENS then
      fail(line, "a tag is too long")
    end
  end
end

--- Without the white space at its end.
local function rstrip(s)
  local n = #s
  while n > 0 and s:find("^%s", n) do
    n = n - 1
  end
  return s:sub(1, n)
end

--- Without the blanks at its end, if they are all that stands on its last line.
local function lstrip_block(s, at_line_start)
  local n = #s
  while n > 0 and s:find("^[ \t\v\f]", n) do
    n = n - 1
  end
  return (n == 0 and at_line_start or s:sub(n, n) == "\n") and s:sub(1, n) or s
end

---@class moonpool.jinja.Node
---@field kind "text"|"print"|"block"
---@field line integer
---@field value string?   text
---@field tokens table[]?

---@param src string
---@return moonpool.jinja.Node[]
return function(src)
  src = src:gsub("\r\n?", "\n"):gsub("\n$", "", 1)
  local out, at, line = {}, 1, 1
  local trim = "" -- what the tag before asked for: "-", "block" (its newline goes), or nothing

  --- The text from `at` to `stop`, before a tag of this kind with this sign (nil at the end).
  local function add_text(stop, sign, kind)
    local s = src:sub(at, stop)
    local lines = newlines(s)
    local at_line_start = at == 1 or src:sub(at - 1, at - 1) == "\n"
    if trim == "-" then
      s = s:gsub("^%s+", "")
    elseif trim == "block" and s:sub(1, 1) == "\n" then
      s = s:sub(2)
      at_line_start = true
    end
    if sign == "-" then
      s = rstrip(s)
    elseif sign == "" and kind ~= "{" then
      s = lstrip_block(s, at_line_start)
    end
    if s ~= "" then
      out[#out + 1] = { kind = "text", value = s, line = line }
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
      local _, to = src:find("#}", open + 2, true)
      if not to then
        fail(line, "a comment is not closed")
      end
      line = line + newlines(src:sub(open, to))
      local close_sign = src:sub(to - 2, to - 2)
      trim = close_sign == "-" and "-" or close_sign == "+" and "" or "block"
      at = to + 1
    else
      local raw_sign, raw_at = src:match("^{%%[-+]?%s*raw%s*([-+]?)%%}()", open)
      if raw_sign then
        local from, to, open_sign, close_sign = src:find("{%%([-+]?)%s*endraw%s*([-+]?)%%}", raw_at)
        if not from then
          fail(line, "'raw' is not closed")
        end
        line = line + newlines(src:sub(open, raw_at - 1))
        at, trim = raw_at, raw_sign -- trim_blocks is not for what begins a raw block
        add_text(from - 1, open_sign, "%")
        line = line + newlines(src:sub(from, to))
        at, trim = to + 1, close_sign == "-" and "-" or close_sign == "+" and "" or "block"
      else
        local tokens, stop, end_sign, end_line = tag(src, open + 2 + #sign, kind == "{" and "}}" or "%}", line)
        out[#out + 1] = { kind = kind == "{" and "print" or "block", tokens = tokens, line = line }
        line, at = end_line, stop
        trim = end_sign == "-" and "-" or kind == "%" and end_sign ~= "+" and "block" or ""
      end
    end
    if #out > MAX_TAGS then
      fail(line, "too many tags")
    end
  end
end
