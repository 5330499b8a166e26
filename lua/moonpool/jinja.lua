--- lua/moonpool/jinja.lua: chat templates. A bounded renderer of the part of Jinja that published models use, set up as transformers
--- does: trim_blocks, lstrip_blocks, loop controls, tojson, raise_exception, strftime_now. core/model/template.c calls it, in a
--- VM of its own. The rest of it lies in moonpool/jinja/.
---
--- Every byte of the output is trusted (it stands in the template) or not (it came with the request, or was made from what did).
local V = require "moonpool.jinja.value"
local lex = require "moonpool.jinja.lexer"
local parser = require "moonpool.jinja.parser"
local methods = require "moonpool.jinja.methods"
local read_request = require "moonpool.jinja.request"

local M = {}

---@class moonpool.jinja.Limits
---@field steps integer
---@field output integer   bytes
---@field depth integer
---@field now integer      seconds since 1970, for strftime_now

---@class moonpool.jinja.Template
---@field body function[]
---@field keep_lists boolean   the template goes through lists of parts itself

local function set_limits(limits)
  V.state.steps, V.state.output, V.state.depth = limits.steps, limits.output, limits.depth
end

-- ---- what templates call --------------------------------------------------------------------------------------------

local globals = {}

function globals.raise_exception(_, a)
  error({ code = "invalid_argument", message = "the chat template refused the request: " .. V.text(V.str(a[1] or "")) }, 0)
end

function globals.namespace(ctx, a, named)
  local space = {}
  if V.class(a[1]) == V.Dict then
    for _, k in ipairs(a[1].keys) do
      space[V.text(V.str(k))] = V.dict_get(ctx, a[1], k)
    end
  end
  for name, v in pairs(named) do
    space[name] = v
  end
  return setmetatable(space, V.Space)
end

function globals.dict(ctx, a, named)
  local d = V.class(a[1]) == V.Dict and methods.dicts.copy(ctx, a[1]) or V.dict()
  local names = {}
  for name in pairs(named) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    V.dict_set(ctx, d, name, named[name])
  end
  return d
end

function globals.range(ctx, a)
  local function whole(v)
    return methods.optional_int(ctx, v, "range") or V.oops(ctx, "range needs whole numbers")
  end
  local from, to, step = 0, whole(a[1]), a[3] ~= nil and whole(a[3]) or 1
  if a[2] ~= nil then
    from, to = to, whole(a[2])
  end
  if step == 0 then
    V.oops(ctx, "range: the step cannot be 0")
  end
  local out, n = {}, 0
  for i = from, step > 0 and to - 1 or to + 1, step do
    V.tick()
    n = n + 1
    out[n] = i
  end
  out.shown = ("range(%d, %d%s)"):format(from, to, step ~= 1 and ", " .. step or "")
  return V.list(out, n)
end

--- strftime_now for a rendering at `now`; UTC.
local function strftime(now)
  return function(ctx, a)
    local format = methods.need_text(ctx, a[1], "strftime_now")
    local rest = format:gsub("%%%%", ""):gsub("%%[-_0^]?[aAbBcdDeFhHIjklmMnpPrRsStTuUVwWxXyYzZ]", "")
    if #format > 256 or rest:find("%", 1, true) then
      V.oops(ctx, "strftime_now: the format '%s' is not known", format)
    end
    return os.date("!" .. format, now)
  end
end

-- ---- the way in -----------------------------------------------------------------------------------------------------

--- Reads a template. Raises { code, message }.
---@param src string
---@return moonpool.jinja.Template
function M.parse(src)
  set_limits { steps = math.huge, output = math.huge, depth = math.huge }
  return { body = parser.parse(lex(src)), keep_lists = src:find "for%s+[%w_]+%s+in%s+[%w_.%[%]'\"]*content['\"%]]*[%s%%-]" ~= nil }
end

--- Renders for a request (JSON that was checked). Returns the text, and for each byte of it "\1" (trusted) or "\0".
---@param template moonpool.jinja.Template
---@param json string
---@param bos string
---@param eos string
---@param limits moonpool.jinja.Limits
---@return string text, string trust
function M.render(template, json, bos, eos, limits)
  set_limits(limits)
  local request = read_request(json, template.keep_lists)
  local vars = {}
  for name, fn in pairs(globals) do
    vars[name] = fn
  end
  vars.strftime_now = strftime(limits.now)
  if V.class(request.template_kwargs) == V.Dict then
    for name, v in pairs(request.template_kwargs.vals) do
      vars[name] = v
    end
  end
  vars.messages = request.messages
  vars.tools = request.tools == nil and V.NONE or request.tools
  vars.add_generation_prompt = request.add_generation_prompt ~= false
  vars.bos_token, vars.eos_token = bos, eos
  local out = { bytes = 0 }
  parser.run(template.body, { vars = vars, line = 1 }, out)
  local whole = V.join(out)
  return V.text(whole), V.mask(whole)
end

return M
