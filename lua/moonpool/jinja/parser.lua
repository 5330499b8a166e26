--- lua/moonpool/jinja/parser.lua: a template's nodes become functions, function(ctx) -> value for expressions and
--- function(ctx, out) -> nil | "break" | "continue" for statements. Grammar and precedence are jinja2's. Used by moonpool.jinja.
---
--- ctx is a scope: { vars, up, line }; names are looked up through `up` when they are used, as jinja2's are.
local V = require "moonpool.jinja.value"
local methods = require "moonpool.jinja.methods"
local library = require "moonpool.jinja.filters"

local class, truthy, tick, oops, NONE = V.class, V.truthy, V.tick, V.oops, V.NONE
local tests, filters = library.tests, library.filters

local MAX_NESTING = 100 -- of expressions, and of blocks

local function template_error(line, format, ...)
  error({ code = "bad_format", message = string.format("chat template, line %d: " .. format, line, ...) }, 0)
end

-- ---- scopes and output ----------------------------------------------------------------------------------------------

local function child(ctx)
  return { vars = {}, up = ctx, line = ctx.line }
end

local function lookup(ctx, name)
  repeat
    local v = ctx.vars[name]
    if v ~= nil then
      return v
    end
    ctx = ctx.up
  until not ctx
end

local function emit(out, v)
  local s = V.str(v)
  out.bytes = out.bytes + #V.text(s)
  if out.bytes > V.state.output then
    V.too_long()
  end
  out[#out + 1] = s
end

local function run(body, ctx, out)
  for i = 1, #body do
    tick()
    local signal = body[i](ctx, out)
    if signal then
      return signal
    end
  end
end

--- Runs fn one level deeper.
local function deeper(ctx, fn)
  local state = V.state
  state.depth = state.depth - 1
  if state.depth < 0 then
    error({ code = "limit_exceeded", message = ("chat template, line %d: nested too deeply"):format(ctx.line or 0) }, 0)
  end
  local a = fn()
  state.depth = state.depth + 1
  return a
end

local function captured(body, ctx)
  local out = { bytes = 0 }
  run(body, ctx, out)
  return V.join(out)
end

-- ---- tokens ---------------------------------------------------------------------------------------------------------

local Parser = {}
Parser.__index = Parser

function Parser:fail(...)
  local t = self.tokens[self.at] or self.tokens[#self.tokens]
  template_error(t and t.line or self.line, ...)
end

--- Whether the next token is this name or sign.
function Parser:peek(value)
  local t = self.tokens[self.at]
  return t ~= nil and (t.kind == "op" or t.kind == "name") and t.value == value
end

function Parser:accept(value)
  if self:peek(value) then
    self.at = self.at + 1
    return true
  end
  return false
end

function Parser:expect(value)
  if not self:accept(value) then
    self:fail("'%s' expected", value)
  end
end

function Parser:name()
  local t = self.tokens[self.at]
  if not t or t.kind ~= "name" then
    self:fail "a name expected"
  end
  self.at = self.at + 1
  return t.value
end

function Parser:finish()
  local t = self.tokens[self.at]
  if t then
    self:fail("unexpected '%s'", t.value)
  end
end

--- Counts nesting while reading.
function Parser:nest(fn)
  self.depth = self.depth + 1
  if self.depth > MAX_NESTING then
    self:fail "nested too deeply"
  end
  local a = fn(self)
  self.depth = self.depth - 1
  return a
end

-- ---- expressions ----------------------------------------------------------------------------------------------------

function Parser:expression()
  return self:nest(function()
    local value = self:either()
    while self:accept "if" do
      local yes, condition, other = value, self:either(), nil
      if self:accept "else" then
        other = self:expression()
      end
      value = function(ctx)
        if truthy(condition(ctx)) then
          return yes(ctx)
        elseif other then
          return other(ctx)
        end
        return V.undefined "an 'if' without 'else' gave no value"
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
  ["=="] = function(_, a, b) return V.equal(a, b) end,
  ["!="] = function(_, a, b) return not V.equal(a, b) end,
  ["<"] = V.less,
  [">"] = function(ctx, a, b) return V.less(ctx, b, a) end,
  ["<="] = function(ctx, a, b) return V.less(ctx, a, b) or V.equal(a, b) end,
  [">="] = function(ctx, a, b) return V.less(ctx, b, a) or V.equal(a, b) end,
  ["in"] = function(ctx, a, b) return V.contains(ctx, b, a) end,
  ["not in"] = function(ctx, a, b) return not V.contains(ctx, b, a) end,
}

function Parser:comparison()
  local first, rest = self:sum(), {}
  while true do
    local t = self.tokens[self.at]
    local op = t and t.kind ~= "string" and comparisons[t.value]
    if self:peek "not" and self.tokens[self.at + 1] and self.tokens[self.at + 1].kind == "name"
      and self.tokens[self.at + 1].value == "in" then
      op = comparisons["not in"]
      self.at = self.at + 1
    end
    if not op then
      break
    end
    self.at = self.at + 1
    rest[#rest + 1] = { op = op, value = self:sum() }
  end
  if #rest == 0 then
    return first
  end
  return function(ctx)
    local a = first(ctx)
    for i = 1, #rest do
      tick()
      local b = rest[i].value(ctx)
      if not rest[i].op(ctx, a, b) then
        return false
      end
      a = b
    end
    return true
  end
end

--- A level of binary operators, leftmost first.
local function binary(ops, next_level)
  return function(self)
    local left = self[next_level](self)
    while true do
      local t = self.tokens[self.at]
      if not t or t.kind ~= "op" or not ops[t.value] then
        return left
      end
      self.at = self.at + 1
      local op, a, b = t.value, left, self[next_level](self)
      left = function(ctx)
        local x = a(ctx)
        return library.operate(ctx, op, x, b(ctx))
      end
    end
  end
end

Parser.sum = binary({ ["+"] = true, ["-"] = true }, "tilde")
Parser.tilde = binary({ ["~"] = true }, "product")
Parser.product = binary({ ["*"] = true, ["/"] = true, ["//"] = true, ["%"] = true }, "power")
Parser.power = binary({ ["**"] = true }, "unary")

local function signed(a, negative)
  return function(ctx)
    local v = a(ctx)
    local n, float = V.num(v)
    if not n then
      oops(ctx, "a sign needs a number, not %s", V.kind(v))
    elseif not negative then
      return type(v) == "boolean" and n or v
    elseif class(v) == V.Num and v.s then
      return setmetatable({ v = -n, float = false, s = v.s:sub(1, 1) == "-" and v.s:sub(2) or "-" .. v.s }, V.Num)
    end
    return V.number(-n, float)
  end
end

function Parser:unary(without_filters)
  local value
  if self:accept "-" then
    value = signed(self:nest(function() return self:unary(true) end), true)
  elseif self:accept "+" then
    value = signed(self:nest(function() return self:unary(true) end), false)
  else
    value = self:primary()
  end
  value = self:postfix(value)
  return without_filters and value or self:filtered(value)
end

--- The arguments of a call: function(ctx) -> positional, named.
function Parser:arguments()
  local args, named = {}, {}
  self:expect "("
  while not self:accept ")" do
    local t, after = self.tokens[self.at], self.tokens[self.at + 1]
    if t and t.kind == "name" and after and after.kind == "op" and after.value == "=" then
      self.at = self.at + 2
      named[#named + 1] = { t.value, self:expression() }
    elseif #named > 0 then
      self:fail "an argument without a name follows one with a name"
    else
      args[#args + 1] = self:expression()
    end
    if not self:peek ")" then
      self:expect ","
    end
  end
  return function(ctx)
    local a, n = {}, {}
    for i = 1, #args do
      a[i] = args[i](ctx)
    end
    for i = 1, #named do
      n[named[i][1]] = named[i][2](ctx)
    end
    return a, n
  end
end

local function no_arguments()
  return {}, {}
end

--- `[…]` behind a value: an index or a slice.
function Parser:subscript(base)
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
  if not sliced then
    return function(ctx)
      tick()
      local v = base(ctx)
      return methods.item(ctx, v, from(ctx))
    end
  end
  return function(ctx)
    tick()
    local v = base(ctx)
    return methods.slice(ctx, v, from and from(ctx), to and to(ctx), step and step(ctx))
  end
end

local function call(ctx, f, args, named)
  if type(f) == "function" then
    return f(ctx, args, named)
  elseif class(f) == V.Macro then
    return f.call(ctx, args, named)
  elseif class(f) == V.Space and f[1] then
    return f[1](ctx, args, named)
  elseif class(f) == V.Undef then
    oops(ctx, "%s", f.why)
  end
  oops(ctx, "%s cannot be called", V.kind(f))
end

function Parser:called(base)
  local arguments = self:arguments()
  return function(ctx)
    tick()
    local f = base(ctx)
    return call(ctx, f, arguments(ctx))
  end
end

function Parser:postfix(value)
  while true do
    local base = value
    if self:accept "." then
      local t = self.tokens[self.at]
      if t and t.kind == "number" then
        self.at = self.at + 1
        local index = tonumber(t.value)
        value = function(ctx) return methods.item(ctx, base(ctx), index) end
      else
        local name = self:name()
        value = function(ctx)
          tick()
          return methods.attribute(ctx, base(ctx), name)
        end
      end
    elseif self:accept "[" then
      value = self:nest(function() return self:subscript(base) end)
    elseif self:peek "(" then
      value = self:nest(function() return self:called(base) end)
    else
      return value
    end
  end
end

--- One `| name(…)`, the bar already read.
function Parser:filter(base)
  local name = self:name()
  local filter = filters[name] or self:fail("no filter '%s'", name)
  local arguments = self:peek "(" and self:arguments() or no_arguments
  return function(ctx)
    tick()
    local v = base(ctx)
    return filter(ctx, v, arguments(ctx))
  end
end

function Parser:test(base)
  local negate = self:accept "not"
  local name = self:name()
  if not tests[name] then
    self:fail("no test '%s'", name)
  end
  local arguments, t = no_arguments, self.tokens[self.at]
  if self:peek "(" then
    arguments = self:arguments()
  elseif t and not (t.kind == "name" and (t.value == "else" or t.value == "or" or t.value == "and"))
    and (t.kind ~= "op" or t.value == "[" or t.value == "{") then
    if self:peek "is" then
      self:fail "tests cannot be chained with 'is'"
    end
    local one = self:postfix(self:primary())
    arguments = function(ctx) return { one(ctx) } end
  end
  return function(ctx)
    tick()
    local v = base(ctx)
    return library.test(ctx, name, v, (arguments(ctx))) ~= negate
  end
end

function Parser:filtered(value)
  while true do
    if self:accept "|" then
      value = self:filter(value)
    elseif self:accept "is" then
      value = self:test(value)
    elseif self:peek "(" then
      value = self:called(value)
    else
      return value
    end
  end
end

local constants = { ["true"] = true, ["True"] = true, ["false"] = false, ["False"] = false, ["none"] = NONE, ["None"] = NONE }

local function constant(v)
  return function() return v end
end

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
    return constant(v)
  elseif t.kind == "number" then
    return constant(V.parse_number(v))
  elseif t.kind == "name" then
    if constants[v] ~= nil then
      return constant(constants[v])
    end
    return function(ctx)
      tick()
      local got = lookup(ctx, v)
      if got == nil then
        return V.undefined(("'%s' is undefined"):format(v))
      end
      return got
    end
  elseif v == "(" then
    return self:nest(self.parenthesis)
  elseif v == "[" then
    return self:nest(function()
      local parts = self:sequence "]"
      return function(ctx)
        local out = {}
        for i = 1, #parts do
          out[i] = parts[i](ctx)
        end
        tick(#parts)
        return V.list(out, #parts)
      end
    end)
  elseif v == "{" then
    return self:nest(self.dictionary)
  end
  self.at = self.at - 1
  self:fail("unexpected '%s'", v)
end

--- Expressions with commas between, up to a closing sign.
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

local function tuple_of(parts)
  return function(ctx)
    local out = {}
    for i = 1, #parts do
      out[i] = parts[i](ctx)
    end
    return V.tuple(out, #parts)
  end
end

function Parser:parenthesis()
  if self:accept ")" then
    return tuple_of {}
  end
  local first = self:expression()
  if self:accept ")" then
    return first
  end
  self:expect ","
  local parts = self:sequence ")"
  table.insert(parts, 1, first)
  return tuple_of(parts)
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
    local d = V.dict()
    tick(#keys)
    for i = 1, #keys do
      local k = keys[i](ctx)
      V.dict_set(ctx, d, k, values[i](ctx))
    end
    return d
  end
end

--- An expression, or several with commas between: a tuple. without_if: as after 'in' and 'if'.
function Parser:tuple(without_if)
  local function one()
    return without_if and self:nest(self.either) or self:expression()
  end
  local parts = { one() }
  if not self:peek "," then
    return parts[1]
  end
  while self:accept "," do
    if not self.tokens[self.at] then
      break
    end
    parts[#parts + 1] = one()
  end
  return tuple_of(parts)
end

-- ---- statements -----------------------------------------------------------------------------------------------------

local statements = {}

--- Reads nodes up to a tag of one of these names; returns the body, that name, and the tag's parser.
local function parse_body(reader, ends, opened)
  local body = {}
  reader.depth = reader.depth + 1
  if reader.depth > MAX_NESTING then
    template_error(reader.line or 0, "nested too deeply")
  end
  while true do
    local node = reader.nodes[reader.at]
    if not node then
      if ends then
        template_error(opened or 0, "'%s' is missing at the end", ends[#ends])
      end
      break
    end
    reader.at = reader.at + 1
    reader.line = node.line
    if node.kind == "text" then
      body[#body + 1] = function(_, out) emit(out, node.value) end
    else
      local p = setmetatable({ tokens = node.tokens, at = 1, depth = 0, line = node.line }, Parser)
      if node.kind == "print" then
        local value = p:tuple()
        p:finish()
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
        local fn = statement(reader, p, node.line)
        p:finish()
        body[#body + 1] = function(ctx, out)
          ctx.line = node.line
          return fn(ctx, out)
        end
      end
    end
  end
  reader.depth = reader.depth - 1
  return body
end

--- A body up to one end tag, which may hold the name: {% endmacro name %}.
local function block(reader, stop, line, name)
  local body, _, p = parse_body(reader, { stop }, line)
  if name then
    p:accept(name)
  end
  p:finish()
  return body
end

statements["if"] = function(reader, p, line)
  local branches = { { condition = p:tuple(true) } }
  local other
  while true do
    local body, stop, inner = parse_body(reader, { "elif", "else", "endif" }, line)
    branches[#branches].body = body
    if stop == "elif" then
      branches[#branches + 1] = { condition = inner:tuple(true) }
      inner:finish()
    else
      inner:finish()
      other = stop == "else" and block(reader, "endif", line) or nil
      break
    end
  end
  return function(ctx, out)
    for i = 1, #branches do
      if truthy(branches[i].condition(ctx)) then
        return deeper(ctx, function() return run(branches[i].body, ctx, out) end)
      end
    end
    return other and deeper(ctx, function() return run(other, ctx, out) end)
  end
end

--- Names that a value is given to: one, or several that share a tuple. Returns function(ctx, value).
local function target(p)
  local in_brackets, names = p:accept "(", { p:name() }
  while p:accept "," do
    if p:peek "in" or p:peek "=" or p:peek ")" then
      names.several = true
      break
    end
    names[#names + 1] = p:name()
  end
  if in_brackets then
    p:expect ")"
  end
  return function(ctx, v)
    if #names == 1 and not names.several then
      ctx.vars[names[1]] = v
      return
    end
    local parts = V.items_of(ctx, v)
    if parts.n ~= #names then
      oops(ctx, "%d names cannot take %d values", #names, parts.n)
    end
    for i, name in ipairs(names) do
      ctx.vars[name] = parts[i]
    end
  end
end

--- The `loop` of item i among all.
local function loop_state(all, i, depth, again)
  local loop = {
    index = i, index0 = i - 1, first = i == 1, last = i == all.n, length = all.n, revindex = all.n - i + 1, revindex0 = all.n - i,
    previtem = i > 1 and all[i - 1] or nil, nextitem = all[i + 1], depth = depth, depth0 = depth - 1,
    cycle = function(ctx, a)
      return a[1] ~= nil and a[(i - 1) % #a + 1] or oops(ctx, "cycle needs values")
    end,
    changed = function(_, a)
      local was = all.changed
      all.changed = V.tuple({ unpack(a) }, #a)
      return was == nil or not V.equal(was, all.changed)
    end,
  }
  loop[1] = again -- templates cannot name this key
  return setmetatable(loop, V.Space)
end

statements["for"] = function(reader, p, line)
  local assign = target(p)
  p:expect "in"
  local source = p:tuple(true)
  local condition = p:accept "if" and p:expression()
  local recursive = p:accept "recursive"
  p:finish()
  reader.loops = reader.loops + 1
  local body, stop, inner = parse_body(reader, { "else", "endfor" }, line)
  reader.loops = reader.loops - 1
  inner:finish()
  local other = stop == "else" and block(reader, "endfor", line)

  local function chosen(ctx, all)
    if not condition then
      return all
    end
    local kept = {}
    for i = 1, all.n do
      local probe = child(ctx)
      assign(probe, all[i])
      if truthy(condition(probe)) then
        kept[#kept + 1] = all[i]
      end
    end
    return V.list(kept)
  end

  local function each(ctx, out, all, depth)
    all = chosen(ctx, all)
    if all.n == 0 then
      return other and run(other, child(ctx), out)
    end
    local items = setmetatable({ n = all.n }, { __index = all }) -- loop.changed keeps its state here
    local again = recursive and function(caller, a)
      return deeper(caller, function()
        local inner_out = { bytes = 0 }
        each(ctx, inner_out, V.items_of(caller, a[1] or oops(caller, "loop needs a list")), depth + 1)
        return V.join(inner_out)
      end)
    end
    for i = 1, all.n do
      tick()
      local scope = child(ctx)
      scope.vars.loop = loop_state(items, i, depth, again)
      assign(scope, all[i])
      if run(body, scope, out) == "break" then
        break
      end
    end
  end

  return function(ctx, out)
    local all = V.items_of(ctx, source(ctx))
    return deeper(ctx, function() return each(ctx, out, all, 1) end)
  end
end

for _, signal in ipairs { "break", "continue" } do
  statements[signal] = function(reader, p)
    if reader.loops == 0 then
      p:fail("'%s' stands outside a loop", signal)
    end
    return function() return signal end
  end
end

statements.set = function(reader, p, line)
  local after = p.tokens[p.at + 1]
  local assign
  if after and after.kind == "op" and after.value == "." then
    local name = p:name()
    p:expect "."
    local field = p:name()
    assign = function(ctx, v)
      local space = lookup(ctx, name)
      if class(space) ~= V.Space or space.index0 ~= nil then
        oops(ctx, "'%s' is no namespace", name)
      end
      space[field] = v
    end
  else
    assign = target(p)
  end
  if p:accept "=" then
    local value = p:tuple()
    return function(ctx) assign(ctx, value(ctx)) end
  end
  local text
  local value = function() return text end
  while p:accept "|" do
    value = p:filter(value)
  end
  p:finish()
  local body = block(reader, "endset", line)
  return function(ctx)
    text = captured(body, child(ctx))
    assign(ctx, value(ctx))
  end
end

--- The parameters of a macro, in brackets: { name, default? } each.
local function parameters(p)
  local params = {}
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
  return params
end

--- Whether the body's tags use this name: only then does a macro take what it does not declare.
local function uses(reader, from, name)
  for i = from, reader.at - 1 do
    for _, t in ipairs(reader.nodes[i].tokens or {}) do
      if t.kind == "name" and t.value == name then
        return true
      end
    end
  end
  return false
end

--- Binds arguments to parameters in a new scope within `scope`.
local function bind(caller, scope, macro, args, named)
  local inner, params = child(scope), macro.params
  inner.line = caller.line
  for i, param in ipairs(params) do
    local v = args[i]
    if v == nil then
      v = named[param.name]
    end
    if v == nil and param.default then
      v = param.default(inner)
    elseif v == nil then
      v = V.undefined(("parameter '%s' was not given"):format(param.name))
    end
    inner.vars[param.name] = v
  end
  if macro.varargs then
    inner.vars.varargs = V.tuple({ unpack(args, #params + 1) }, math.max(0, #args - #params))
  elseif #args > #params then
    oops(caller, "macro '%s' takes not more than %d arguments", macro.name, #params)
  end
  local extra = V.dict()
  for name, v in pairs(named) do
    if inner.vars[name] == nil or (name == "varargs") then
      V.dict_set(caller, extra, name, v)
    end
  end
  if macro.kwargs then
    inner.vars.kwargs = extra
  elseif #extra.keys > 0 and not (#extra.keys == 1 and extra.vals.caller ~= nil) then
    oops(caller, "macro '%s' takes no argument named '%s'", macro.name, extra.keys[1])
  end
  inner.vars.caller = named.caller or V.undefined "there is no caller"
  return inner
end

--- A macro as read: its body, parameters, and what it uses.
local function read_macro(reader, name, params, stop, line)
  local from = reader.at
  local body = block(reader, stop, line, name)
  return { name = name, params = params, body = body, varargs = uses(reader, from, "varargs"), kwargs = uses(reader, from, "kwargs") }
end

local function make_macro(macro, scope)
  return setmetatable({ name = macro.name, call = function(caller, args, named)
    local inner = bind(caller, scope, macro, args, named)
    return deeper(caller, function() return captured(macro.body, inner) end)
  end }, V.Macro)
end

statements.macro = function(reader, p, line)
  local name = p:name()
  local params = parameters(p)
  p:finish()
  local macro = read_macro(reader, name, params, "endmacro", line)
  return function(ctx) ctx.vars[name] = make_macro(macro, ctx) end
end

statements.call = function(reader, p, line)
  local params = p:peek "(" and parameters(p) or {}
  local name_at = p.at
  local base = p:primary()
  while not p:peek "(" do
    p:expect "."
    p.at = p.at - 1
    local inner = base
    p:expect "."
    local field = p:name()
    base = function(ctx) return methods.attribute(ctx, inner(ctx), field) end
  end
  local arguments = p:arguments()
  p:finish()
  local macro = read_macro(reader, "caller", params, "endcall", line)
  return function(ctx, out)
    local f = base(ctx)
    local args, named = arguments(ctx)
    if class(f) ~= V.Macro then
      oops(ctx, "'call' needs a macro: '%s' is %s", p.tokens[name_at].value, V.kind(f))
    end
    named.caller = make_macro(macro, ctx)
    emit(out, f.call(ctx, args, named))
  end
end

statements.filter = function(reader, p, line)
  local text
  local value = p:filter(function() return text end)
  while p:accept "|" do
    value = p:filter(value)
  end
  p:finish()
  local body = block(reader, "endfilter", line)
  return function(ctx, out)
    local inner = child(ctx)
    text = captured(body, inner)
    emit(out, value(inner))
  end
end

statements.with = function(reader, p, line)
  local pairs_ = {}
  while p.tokens[p.at] do
    local assign = target(p)
    p:expect "="
    pairs_[#pairs_ + 1] = { assign, p:expression() }
    if p.tokens[p.at] then
      p:expect ","
    end
  end
  local body = block(reader, "endwith", line)
  return function(ctx, out)
    local inner = child(ctx)
    for _, one in ipairs(pairs_) do
      one[1](inner, one[2](ctx))
    end
    return run(body, inner, out)
  end
end

--- A block renders where it stands: there is no inheritance here.
statements.block = function(reader, p, line)
  local name = p:name()
  p:finish()
  local body = block(reader, "endblock", line, name)
  return function(ctx, out)
    run(body, child(ctx), out)
  end
end

--- transformers' own tag around what the assistant says; it renders what is in it.
statements.generation = function(reader, p, line)
  p:finish()
  local body = block(reader, "endgeneration", line)
  return function(ctx, out) return run(body, ctx, out) end
end

---@param nodes moonpool.jinja.Node[]
---@return function[] body
local function parse(nodes)
  return (parse_body { nodes = nodes, at = 1, depth = 0, loops = 0 })
end

return { parse = parse, run = run }
