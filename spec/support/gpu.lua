--- spec/support/gpu.lua: small plans on a device, for the specs of gpu/*. Builds plans, weights with random blocks, memory,
--- execs, and steps; reads outputs back as Lua arrays of floats (FFI), compares them bit for bit.
local C, ffi = require "spec.support.ffi"("gpu/device.h", "gpu/blocks.h")
ffi.cdef "int memcmp(const void *, const void *, size_t);"

local M = { C = C, ffi = ffi, NONE = 0xffffffff }
local err = ffi.new "struct mp_err"

M.types = { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q8_0 = 8, BF16 = 30 }

function M.ok(rc)
  if rc ~= 0 then
    error(("rc %d: %s"):format(rc, ffi.string(err.message)), 2)
  end
end

function M.err()
  return err
end

function M.message()
  return ffi.string(err.message)
end

--- A generator of its own (xorshift), so that inputs are fresh per seed and the same everywhere.
function M.random(seed)
  local state = ffi.new("uint64_t", seed) * 0x9e3779b97f4a7c15ULL + 0x1234567ULL
  local function bits()
    state = bit.bxor(state, bit.lshift(state, 13))
    state = bit.bxor(state, bit.rshift(state, 7))
    state = bit.bxor(state, bit.lshift(state, 17))
    return tonumber(bit.rshift(state, 32))
  end
  local r = { bits = bits }
  function r.uniform()
    return (bits() + 0.5) / 4294967296
  end
  function r.normal()
    return math.sqrt(-2 * math.log(r.uniform())) * math.cos(2 * math.pi * r.uniform())
  end
  function r.below(n)
    return bits() % n
  end
  return r
end

--- Rows of a weight in the file's layout, values around `size`. Returns the bytes and the values as doubles.
function M.weight(random, type, columns, rows, size)
  local bytes = ffi.new "uint64_t[1]"
  assert(C.mp_type_row_bytes(type, columns, bytes))
  local row = tonumber(bytes[0])
  local data = ffi.new("uint8_t[?]", row * rows)
  local n = columns * rows
  size = size or 1
  local function f16(at, v)
    local h = C.mp_f32_to_f16(v)
    data[at], data[at + 1] = h % 256, math.floor(h / 256)
  end
  if type == M.types.F32 then
    local f = ffi.cast("float *", data)
    for i = 0, n - 1 do
      f[i] = random.normal() * size
    end
  elseif type == M.types.F16 then
    for i = 0, n - 1 do
      f16(2 * i, random.normal() * size)
    end
  elseif type == M.types.BF16 then
    local f = ffi.new "union { float f; uint32_t u; }"
    for i = 0, n - 1 do
      f.f = random.normal() * size
      local h = math.floor(f.u / 65536)
      data[2 * i], data[2 * i + 1] = h % 256, math.floor(h / 256)
    end
  else
    local block = ({ [M.types.Q8_0] = 34, [M.types.Q4_0] = 18, [M.types.Q4_1] = 20 })[type]
    local step = type == M.types.Q8_0 and 1 / 64 or 1 / 4
    for at = 0, row * rows - 1, block do
      for i = 0, block - 1 do
        data[at + i] = random.below(256)
      end
      f16(at, (0.5 + random.uniform()) * size * step)
      if type == M.types.Q4_1 then
        f16(at + 2, -(1.5 + random.uniform()) * size)
      end
    end
  end
  local values = ffi.new("float[?]", n)
  for r = 0, rows - 1 do
    C.mp_type_to_f32(type, data + r * row, values + r * columns, columns)
  end
  -- What a rounding error is measured by: |d*q| + |m| where a value is d*q + m.
  local magnitudes = ffi.new("float[?]", n)
  for i = 0, n - 1 do
    local m = 0
    if type == M.types.Q4_1 then
      local block = data + math.floor(i / 32) * 20
      m = C.mp_f16_to_f32(block[2] + 256 * block[3])
    end
    magnitudes[i] = math.abs(values[i] - m) + math.abs(m)
  end
  return { type = type, data = data, values = values, magnitudes = magnitudes, columns = columns, rows = rows }
end

--- A plan being written. Node methods return value ids.
local Plan = {}
Plan.__index = Plan

function M.plan(context)
  local p = setmetatable({ c = ffi.gc(C.mp_plan_new(), C.mp_plan_free), weights = {}, outputs = {}, vals = {} }, Plan)
  p.c.n_context = context or 64
  return p
end

function Plan:weight(role, w)
  local id = C.mp_plan_weight(self.c, "w" .. #self.weights, ffi.C["MP_W_" .. role], w.columns, w.rows)
  self.weights[#self.weights + 1] = w
  return id
end

function Plan:node(op, inputs, shape, attr, weights)
  local n = ffi.new "struct mp_node"
  n.op = ffi.C["MP_OP_" .. op:upper()]
  n.layer = 0xffff
  for i = 0, 1 do
    n["in"][i] = inputs[i + 1] or M.NONE
    n.w[i] = weights and weights[i + 1] or M.NONE
  end
  for k, v in pairs(attr or {}) do
    if k == "output" then
      ffi.copy(n.attr.output, v)
    else
      n.attr[k] = v
    end
  end
  n.out = M.NONE
  if shape then
    n.out = C.mp_plan_val(self.c, ffi.C["MP_R_" .. (shape.rows or "TOK")], shape.n)
    self.vals[n.out] = shape
  end
  C.mp_plan_node(self.c, n)
  if op == "output" then
    self.outputs[attr.output] = self.vals[inputs[1]]
  end
  return n.out
end

function Plan:output(val, name)
  if name == "logits" then
    self.c.n_vocab = self.vals[val].n
  end
  self:node("output", { val }, nil, { output = name })
end

function Plan:kv(t)
  local g = ffi.new("struct mp_kvg", t)
  return C.mp_plan_kv(self.c, g)
end

function Plan:rope(style, dims, base, factor)
  local f = ffi.new("float[?]", math.max(1, dims / 2))
  for i = 0, dims / 2 - 1 do
    f[i] = base ^ (-2 * i / dims)
  end
  return C.mp_plan_rope(self.c, ffi.C["MP_ROPE_" .. style], dims, factor or 1, f)
end

function Plan:check()
  err.message[0] = 0
  return C.mp_plan_check(self.c, err)
end

function Plan:text()
  local b = ffi.new "struct mp_buf"
  C.mp_plan_print(self.c, b)
  local s = ffi.string(b.data, b.len)
  C.mp_buf_free(b)
  return s
end

--- A device, opened. Everything made from it is freed by dev:close().
local Device = {}
Device.__index = Device

function M.open(name, spec)
  local ops = C.mp_device_find(name)
  assert(ops ~= nil, "no device " .. name)
  local out = ffi.new "struct mp_dev *[1]"
  M.ok(ops.open(out, spec or "", err))
  local d = setmetatable({ ops = ops, c = out[0], mems = {}, execs = {} }, Device)
  d.caps = ffi.new "struct mp_caps"
  ops.caps(d.c, d.caps)
  return d
end

--- Code and text of the error that opening gives.
function M.open_error(name, spec)
  local out = ffi.new "struct mp_dev *[1]"
  local rc = C.mp_device_find(name).open(out, spec, err)
  return rc, ffi.string(err.message)
end

function Device:memory(bytes, commit)
  local out = ffi.new "struct mp_mem *[1]"
  M.ok(self.ops.mem_reserve(self.c, bytes, out, err))
  self.mems[#self.mems + 1] = out[0]
  if commit then
    M.ok(self.ops.mem_commit(out[0], 0, bytes, true, err))
  end
  return out[0]
end

function M.limits(t)
  t = t or {}
  local l = ffi.new "struct mp_limits"
  l.max_tok = t.max_tok or 64
  l.max_seq = t.max_seq or math.min(16, l.max_tok)
  l.max_out = t.max_out or l.max_tok
  l.max_slot = t.max_slot or 16
  l.max_pages = t.max_pages or 64
  l.max_seq_pages = t.max_seq_pages or l.max_pages
  l.numerics = t.numerics or 0
  l.no_fuse = t.no_fuse or false
  return l
end

local Exec = {}
Exec.__index = Exec
local alive = setmetatable({}, { __mode = "k" })

--- Builds a plan with its weights and as many committed KV pages as the limits say.
function Device:build(plan, t)
  M.ok(plan:check())
  local ops, lim = self.ops, M.limits(t)
  local n = #plan.weights
  local off, types, at = ffi.new("uint64_t[?]", n + 1), ffi.new("uint32_t[?]", n + 1), 0
  local size = ffi.new "uint64_t[1]"
  for i, w in ipairs(plan.weights) do
    M.ok(ops.w_size(self.c, plan.c.weights[i - 1], w.type, lim, size, err))
    off[i - 1], types[i - 1] = at, w.type
    at = at + math.ceil(tonumber(size[0]) / 64) * 64
  end
  local wmem = at > 0 and self:memory(at, true) or nil
  for i, w in ipairs(plan.weights) do
    local ref, row = plan.c.weights[i - 1], ffi.new "uint64_t[1]"
    C.mp_type_row_bytes(w.type, w.columns, row)
    -- In pieces, as the loader does.
    for r = 0, w.rows - 1, 64 do
      M.ok(ops.w_put(wmem, off[i - 1], ref, w.type, r, math.min(64, w.rows - r), w.data + r * row[0], err))
    end
  end
  local scratch, pages = ffi.new "uint64_t[1]", ffi.new("uint64_t[?]", ffi.C.MP_MAX_KVS)
  M.ok(ops.need(self.c, plan.c, lim, scratch, pages, err))
  local smem = scratch[0] > 0 and self:memory(tonumber(scratch[0]), true) or nil
  local kv = ffi.new("struct mp_mem *[?]", ffi.C.MP_MAX_KVS)
  for g = 0, plan.c.n_kvs - 1 do
    kv[g] = self:memory(tonumber(pages[g]) * lim.max_pages, t == nil or t.commit ~= false)
  end
  local out = ffi.new "struct mp_exec *[1]"
  M.ok(ops.build(self.c, plan.c, lim, wmem, off, types, smem, kv, out, err))
  local e = setmetatable({ c = out[0], dev = self, ops = ops, plan = plan, lim = lim, kv = kv, page_bytes = pages,
    n_kvs = plan.c.n_kvs }, Exec)
  self.execs[#self.execs + 1] = e
  return e
end

function Device:close()
  for _, e in ipairs(self.execs) do
    self.ops.exec_free(e.c)
  end
  for _, m in ipairs(self.mems) do
    self.ops.mem_free(m)
  end
  self.ops.close(self.c)
end

--- seqs: list of { tok = {…}, pos = first position, pages = {ids}, slot = n }. out: token rows to keep, or "all" or nil (the
--- last of each sequence). Returns the C step and what keeps its arrays alive.
function M.step(exec, seqs, out)
  local s, keep = ffi.new "struct mp_step", {}
  local function array(type, list)
    local a = ffi.new(type .. "[?]", math.max(1, #list), list)
    keep[#keep + 1] = a
    return a
  end
  local tok, pos, start, kv_len, slot, outs, width = {}, {}, { 0 }, {}, {}, {}, 1
  for i, q in ipairs(seqs) do
    for k, id in ipairs(q.tok) do
      tok[#tok + 1] = id
      pos[#pos + 1] = q.pos + k - 1
      if out == "all" then
        outs[#outs + 1] = #tok - 1
      end
    end
    if out == nil then
      outs[#outs + 1] = #tok - 1
    end
    start[#start + 1] = #tok
    kv_len[#kv_len + 1] = q.pos + #q.tok
    slot[#slot + 1] = q.slot or i - 1
    width = math.max(width, #(q.pages or {}))
  end
  if type(out) == "table" then
    outs = out
  end
  s.n_tok, s.n_seq, s.n_out = #tok, #seqs, #outs
  s.tok, s.pos, s.start = array("int32_t", tok), array("int32_t", pos), array("uint32_t", start)
  s.kv_len, s.slot, s.out = array("uint32_t", kv_len), array("uint32_t", slot), array("uint32_t", outs)
  for g = 0, exec.n_kvs - 1 do
    local pages = ffi.new("uint32_t[?]", #seqs * width)
    for i, q in ipairs(seqs) do
      for k = 1, width do
        pages[(i - 1) * width + k - 1] = (q.pages or {})[k] or 0xffffffff
      end
    end
    keep[#keep + 1] = pages
    s.pages[g], s.stride[g] = pages, width
  end
  alive[s] = keep -- as long as the step is
  return s, keep
end

function Exec:try_forward(step)
  local ticket = ffi.new "mp_ticket[1]"
  err.message[0] = 0
  local rc = self.ops.forward(self.c, step, ticket, err)
  return rc, rc == 0 and ticket[0] or ffi.string(err.message)
end

function Exec:wait(ticket)
  local done = ffi.new "struct mp_done"
  M.ok(self.ops.wait(self.dev.c, ticket, ffi.cast("uint64_t", -1), done))
  return done
end

function Exec:forward(seqs, out)
  local step, keep = M.step(self, seqs, out)
  local rc, ticket = self:try_forward(step)
  if rc ~= 0 then
    error(ticket, 2)
  end
  self.last = keep
  return self:wait(ticket)
end

--- Rows of an output as one float array.
function Exec:read(name, rows)
  local n = self.plan.outputs[name].n
  local a = ffi.new("float[?]", rows * n)
  for r = 0, rows - 1 do
    M.ok(self.ops.read(self.c, name, r, a + r * n, n, err))
  end
  return a, rows * n
end

function Exec:feed(val, values, rows)
  M.ok(self.ops.feed(self.c, val, values, rows, err))
end

function M.pick(t)
  local p = ffi.new "struct mp_pick"
  p.temp, p.top_p, p.rep = 1, 1, 1
  for k, v in pairs(t) do
    p[k] = v
  end
  return p
end

--- Samples; returns a copy of what was got.
function Exec:sample(picks)
  local n = #picks
  local a, ticket = ffi.new("struct mp_pick[?]", n), ffi.new "mp_ticket[1]"
  for i, p in ipairs(picks) do
    a[i - 1] = M.pick(p)
  end
  M.ok(self.ops.sample(self.c, a, n, ticket, err))
  local done = self:wait(ticket[0])
  local got = ffi.new("struct mp_got[?]", n)
  ffi.copy(got, done.got, ffi.sizeof "struct mp_got" * n)
  return got, done
end

function M.same(a, b, n)
  return ffi.C.memcmp(a, b, n * 4) == 0
end

return M
