--- lua/moonpool/plan.lua: what an architecture's file builds with. core/model/arch.c requires it once per load, in a VM of
--- its own, and turns the table that it returns into a struct mp_plan. Shapes are checked as operations are emitted.

local NONE = 4294967295
local architectures = { "llama" } -- lua/moonpool/arch/NAME.lua; sorted

---@class moonpool.File       what the C side knows of the model file; getters raise on a wrong type or range
---@field u32 fun(key: string, min: integer, max: integer): integer|nil
---@field f32 fun(key: string, min: number, max: number): number|nil
---@field str fun(key: string): string|nil
---@field tensor fun(name: string): integer|nil, integer|nil   columns, rows (1 for vectors); nil: not there
---@field floats fun(name: string, n: integer): number[]       the n values of an F32 vector
---@field count fun(key: string): integer|nil                  elements of an array
---@field name fun(i: integer): string|nil                     of tensor i, from 0; nil behind the last

local function fail(code, ...)
  error({ code = code, message = string.format(...) }, 0)
end

--- A tensor's shape as people read it.
local function shape(columns, rows)
  return rows == 1 and string.format("[%d]", columns) or string.format("[%d x %d]", columns, rows)
end

---@class moonpool.Metadata
local Metadata = {}
Metadata.__index = Metadata

--- `u32("block_count", 1, 1024)`: required; with a fourth argument: the default when the key is absent.
---@param key string   without the architecture's name in front
---@param min integer
---@param max integer
---@param default? integer
---@return integer
function Metadata:u32(key, min, max, default)
  local name = self.prefix .. key
  local v = self.file.u32(name, min, max)
  if v == nil then
    v = default or fail("bad_format", "the metadata key '%s' is missing", name)
  end
  return v
end

---@param key string
---@param min number
---@param max number
---@param default? number
---@return number
function Metadata:f32(key, min, max, default)
  local name = self.prefix .. key
  local v = self.file.f32(name, min, max)
  if v == nil then
    v = default or fail("bad_format", "the metadata key '%s' is missing", name)
  end
  return v
end

---@param key string
---@param default? string
---@return string|nil
function Metadata:str(key, default)
  return self.file.str(self.prefix .. key) or default
end

--- Elements of an array of the file, nil when it has none: `md:count "tokenizer.ggml.tokens"`.
---@param key string   whole
---@return integer|nil
function Metadata:count(key)
  return self.file.count(key)
end

--- Refuses the file: what it asks for is not built.
function Metadata.unsupported(_, ...)
  fail("unsupported", ...)
end

--- Refuses the file: what it says cannot be.
function Metadata.bad(_, ...)
  fail("bad_format", ...)
end

--- Columns and rows of a tensor, nil when the file has none of that name.
---@param name string
function Metadata:tensor(name)
  return self.file.tensor(name)
end

---@class moonpool.Architecture
---@field name string
---@field match string[]     values of general.architecture
---@field ignore string[]?   patterns of tensors that files carry and the plan has no need of
---@field hparams fun(md: moonpool.Metadata): table
---@field build fun(g: moonpool.Plan, hp: table)

---@class moonpool.Plan
local Plan = {}
Plan.__index = Plan

---@class moonpool.Value   rows are symbolic: "tok", "out" or "seq"
---@field id integer
---@field rows string
---@field n integer

---@class moonpool.Weight
---@field name string
---@field columns integer
---@field rows integer

function Plan:value(rows, n)
  local v = { id = #self.vals, rows = rows, n = n }
  self.vals[#self.vals + 1] = { rows = rows, n = n }
  return v
end

function Plan:emit(op, ins, weights, attr, rows, n)
  local out = rows and self:value(rows, n)
  local node = attr or {}
  node.op, node.block = op, self.current
  node.in0, node.in1 = ins[1] and ins[1].id or NONE, ins[2] and ins[2].id or NONE
  node.w0, node.w1 = weights[1] or NONE, weights[2] or NONE
  node.out = out and out.id or NONE
  self.nodes[#self.nodes + 1] = node
  return out
end

--- A weight of the plan, once per tensor; a second role makes it "both".
function Plan:use(w, role)
  local id = self.ids[w.name]
  if not id then
    id = #self.weights
    self.ids[w.name] = id
    self.weights[id + 1] = { name = w.name, role = role, columns = w.columns, rows = w.rows }
  elseif self.weights[id + 1].role ~= role then
    self.weights[id + 1].role = "both"
  end
  return id
end

--- A tensor by its name without ".weight"; nil when the file has none.
---@param name string
---@param suffix? string
---@return moonpool.Weight|nil
function Plan:maybe(name, suffix)
  local full = name .. (suffix or ".weight")
  local columns, rows = self.file.tensor(full)
  return columns and { name = full, columns = columns, rows = rows }
end

---@param name string
---@return moonpool.Weight
function Plan:weight(name)
  return self:maybe(name) or fail("bad_format", "the tensor '%s.weight' is missing", name)
end

--- The tensors of block i: `w "attn_q"`; w.maybe "attn_qkv" and w.bias "attn_q" may be nil.
---@param i integer
function Plan:block(i)
  self.current = i
  local prefix = "blk." .. i .. "."
  return setmetatable({
    maybe = function(name)
      return self:maybe(prefix .. name)
    end,
    bias = function(name)
      return self:maybe(prefix .. name, ".bias")
    end,
  }, {
    __call = function(_, name)
      return self:weight(prefix .. name)
    end,
  })
end

local function want(w, columns, rows)
  if w.columns ~= columns or (rows and w.rows ~= rows) then
    fail("bad_format", "the tensor '%s' is %s, but the metadata asks for %s", w.name, shape(w.columns, w.rows),
      rows and shape(columns, rows) or columns .. " columns")
  end
  return w
end

--- Layers that share page tables; returns the group's index.
function Plan:kv(group)
  self.kvs[#self.kvs + 1] = { layers = group.layers, heads = group.heads, dim_k = group.dim, dim_v = group.dim, window = group.window or 0 }
  return #self.kvs - 1
end

---@class moonpool.RopeScaling
---@field type "none"|"linear"|"yarn"
---@field factor number
---@field original integer      context it was trained with
---@field attn_factor number
---@field ext_factor number
---@field beta_fast number
---@field beta_slow number

--- YaRN (Peng et al., 2023), as llama.cpp evaluates it: fast rotations stay, slow ones are interpolated, a ramp between.
--- Changes freq; returns the factor of cos and sin.
local function yarn(freq, t, scaling)
  local function turning(rotations)
    return t.dims * math.log(scaling.original / (rotations * 2 * math.pi)) / (2 * math.log(t.base))
  end
  local low = math.max(0, math.floor(turning(scaling.beta_fast)))
  local high = math.min(t.dims - 1, math.ceil(turning(scaling.beta_slow)))
  for i = 0, t.dims / 2 - 1 do
    local ramp = math.min(1, math.max(0, (i - low) / math.max(0.001, high - low)))
    local kept = (1 - ramp) * scaling.ext_factor
    freq[i + 1] = freq[i + 1] / scaling.factor * (1 - kept) + freq[i + 1] * kept
  end
  return scaling.ext_factor ~= 0 and scaling.attn_factor * (1 + 0.1 * math.log(scaling.factor)) or scaling.attn_factor
end

--- A table of rotary frequencies: style "norm" (pairs 2i, 2i+1) or "neox" (i, i + dims/2). factors: divisors from a tensor.
---@param t { style: string, dims: integer, base: number, factors: moonpool.Weight?, scaling: moonpool.RopeScaling? }
---@return integer
function Plan:rope_table(t)
  local freq, factors, attn_factor = {}, nil, 1
  if t.factors then
    factors = self.file.floats(want(t.factors, t.dims / 2, 1).name, t.dims / 2)
    self.read[t.factors.name] = true
  end
  for i = 0, t.dims / 2 - 1 do
    local f = t.base ^ (-2 * i / t.dims)
    freq[i + 1] = factors and f / factors[i + 1] or f
  end
  if t.scaling and t.scaling.type == "linear" then
    for i = 1, t.dims / 2 do
      freq[i] = freq[i] / t.scaling.factor
    end
  elseif t.scaling and t.scaling.type == "yarn" then
    attn_factor = yarn(freq, t, t.scaling)
  end
  self.ropes[#self.ropes + 1] = { style = t.style, dims = t.dims, attn_factor = attn_factor, freq = freq }
  return #self.ropes - 1
end

--- Rows of w by token; rows: the vocabulary that the metadata says, nil when it says none.
---@return moonpool.Value
function Plan:embed(w, n, rows)
  want(w, n, rows)
  return self:emit("embed", {}, { self:use(w, "embed") }, { scale = 1 }, "tok", w.columns)
end

--- The rows that the head must see: before the last norm.
function Plan:gather(x)
  self.current = nil
  return self:emit("gather", { x }, {}, nil, "out", x.n)
end

---@param x moonpool.Value
---@param w moonpool.Weight
---@param bias? moonpool.Weight
---@param rows? integer   what the metadata says the output has
function Plan:linear(x, w, rows, bias)
  want(w, x.n, rows)
  local weights = { self:use(w, "matmul") }
  if bias then
    weights[2] = self:use(want(bias, w.rows, 1), "vec")
  end
  return self:emit("linear", { x }, weights, nil, x.rows, w.rows)
end

function Plan:rms_norm(x, w, eps)
  return self:emit("rms_norm", { x }, { self:use(want(w, x.n, 1), "vec") }, { eps = eps }, x.rows, x.n)
end

--- Columns from..to-1 of x.
function Plan:slice(x, from, to)
  return self:emit("slice", { x }, {}, { from = from, to = to }, x.rows, to - from)
end

--- The projections of attention: from one tensor (rows q, then k, then v), or from three.
---@return moonpool.Value, moonpool.Value, moonpool.Value
function Plan:qkv(x, w, q_columns, kv_columns)
  local fused = w.maybe "attn_qkv"
  if not fused then
    return self:linear(x, w "attn_q", q_columns, w.bias "attn_q"), self:linear(x, w "attn_k", kv_columns, w.bias "attn_k"),
      self:linear(x, w "attn_v", kv_columns, w.bias "attn_v")
  end
  local all = self:linear(x, fused, q_columns + 2 * kv_columns, w.bias "attn_qkv")
  local k_end = q_columns + kv_columns
  return self:slice(all, 0, q_columns), self:slice(all, q_columns, k_end), self:slice(all, k_end, k_end + kv_columns)
end

function Plan:add(a, b)
  return self:emit("add", { a, b }, {}, nil, a.rows, a.n)
end

function Plan:glu(gate, up, act)
  return self:emit("glu", { gate, up }, {}, { act = act }, gate.rows, gate.n)
end

function Plan:rope(x, table_index, heads)
  return self:emit("rope", { x }, {}, { rope = table_index, heads = heads }, x.rows, x.n)
end

--- Writes k and v to the cache, then attends causally. a: kv, layer, heads, scale, window.
function Plan:attention(q, k, v, a)
  self:emit("kv_put", { k, v }, {}, { kv = a.kv, layer = a.layer })
  return self:emit("attn", { q }, {}, { kv = a.kv, layer = a.layer, heads = a.heads, scale = a.scale, window = a.window or 0 }, q.rows, q.n)
end

function Plan:output(name, x)
  self:emit("output", { x }, {}, { output = name })
  if name == "logits" then
    self.n_vocab = x.n
  end
end

--- A tensor that the plan does not use means a model that computes something else than the plan: refused, not ignored.
local function refuse_unused(plan, arch)
  local i = 0
  for name in function() return plan.file.name(i) end do
    i = i + 1
    local known = plan.ids[name] or plan.read[name]
    for _, pattern in ipairs(arch.ignore or {}) do
      known = known or name:find(pattern)
    end
    if not known then
      fail("unsupported", "the tensor '%s' is none that the architecture '%s' uses: a variant that is not built", name, arch.name)
    end
  end
end

local M = {}

---@return string[]
function M.names()
  return architectures
end

--- The plan of a model file as a table of numbers. context: 0 for the file's own.
---@param file moonpool.File
---@param context integer
function M.build(file, context)
  local name = file.str "general.architecture" or fail("bad_format", "the metadata key 'general.architecture' is missing")
  local arch
  for _, known in ipairs(architectures) do
    local candidate = require("moonpool.arch." .. known)
    for _, match in ipairs(candidate.match) do
      arch = arch or (match == name and candidate)
    end
  end
  if not arch then
    fail("unsupported", "the architecture '%s' is not built; these are: %s", name, table.concat(architectures, ", "))
  end
  local md = setmetatable({ file = file, prefix = name .. "." }, Metadata)
  local longest = md:u32("context_length", 1, 16777216)
  if context > longest then
    fail("invalid_argument", "a context of %d was asked for, but the model was made for %d", context, longest)
  end
  local plan = setmetatable({
    file = file, vals = {}, nodes = {}, kvs = {}, weights = {}, ropes = {}, ids = {}, read = {}, n_vocab = 0,
    n_context = context > 0 and context or longest,
  }, Plan)
  arch.build(plan, arch.hparams(md))
  refuse_unused(plan, arch)
  return plan
end

return M
