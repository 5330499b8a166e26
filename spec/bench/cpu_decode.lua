--- `./dev bench cpu`: the CPU device alone, on a random plan of the default model's shape (SmolLM2-135M: 30 layers of 576, 9
--- heads over 3, feed-forward 1536, vocabulary 49152; Q4_1, tied embedding Q8_0), in plain numerics. Prints decode tokens/s
--- at a short and a long context and prefill tokens/s per instruction set, beside the floor that memory sets: the bytes of
--- all weights over the bandwidth of a read of as much memory, measured in the same run by the same number of threads'
--- worth of memcpy. That all lines give the same logits is asserted before a time is printed.
local gpu = require "spec.support.gpu"
local ffi, C = gpu.ffi, gpu.C
require "spec.support.ffi"("core/base/clock.h")

local layers, width, heads, kv_heads, dim, ff, vocab = 30, 576, 9, 3, 64, 1536, 49152
local context = 2048

local function now()
  return tonumber(C.mp_clock_mono_ns()) / 1e9
end

--- One random weight per shape, shared by the layers: it is put into memory once for each.
local random = gpu.random(7)
local made = {}
local function weight(type, columns, rows, size)
  local key = type .. "x" .. columns .. "x" .. rows
  if not made[key] then
    -- Random blocks are slow to make in Lua: 16 rows, repeated.
    local few = gpu.weight(random, type, columns, math.min(rows, 16), size)
    local row = ffi.new "uint64_t[1]"
    C.mp_type_row_bytes(type, columns, row)
    local n = tonumber(row[0])
    local data = ffi.new("uint8_t[?]", n * rows)
    for r = 0, rows - 1 do
      ffi.copy(data + r * n, few.data + (r % few.rows) * n, n)
    end
    made[key] = { type = type, data = data, columns = columns, rows = rows, bytes = n * rows }
  end
  return made[key]
end

local total = 0
local p = gpu.plan(context)
local function add(role, w)
  total = total + w.bytes
  return p:weight(role, w)
end
local q4, f32 = gpu.types.Q4_1, gpu.types.F32
local kv = p:kv { layers = layers, heads = kv_heads, dim_k = dim, dim_v = dim }
local rope = p:rope("NORM", dim, 100000)
local embedding = add("BOTH", weight(gpu.types.Q8_0, width, vocab, 0.5))
local x = p:node("embed", {}, { n = width }, nil, { embedding })
for l = 0, layers - 1 do
  local function linear(input, n, from)
    return p:node("linear", { input }, { n = n }, nil, { add("MATMUL", weight(q4, from, n, 0.05)) })
  end
  local function norm(input)
    return p:node("rms_norm", { input }, { n = width }, { eps = 1e-5 }, { add("VEC", weight(f32, width, 1)) })
  end
  local h = norm(x)
  local q, k, v = linear(h, heads * dim, width), linear(h, kv_heads * dim, width), linear(h, kv_heads * dim, width)
  q = p:node("rope", { q }, { n = heads * dim }, { rope = rope, heads = heads })
  k = p:node("rope", { k }, { n = kv_heads * dim }, { rope = rope, heads = kv_heads })
  p:node("kv_put", { k, v }, nil, { kv = kv, layer = l })
  local o = p:node("attn", { q }, { n = heads * dim }, { kv = kv, layer = l, heads = heads, scale = dim ^ -0.5 })
  x = p:node("add", { x, linear(o, width, heads * dim) }, { n = width })
  h = norm(x)
  local g = p:node("glu", { linear(h, ff, width), linear(h, ff, width) }, { n = ff }, { act = ffi.C.MP_ACT_SILU })
  x = p:node("add", { x, linear(g, width, ff) }, { n = width })
end
x = p:node("gather", { x }, { rows = "OUT", n = width })
x = p:node("rms_norm", { x }, { rows = "OUT", n = width }, { eps = 1e-5 }, { add("VEC", weight(f32, width, 1)) })
p:output(p:node("linear", { x }, { rows = "OUT", n = vocab }, nil, { embedding }), "logits")

local function bandwidth()
  local n = 256 * 2 ^ 20
  local a, b = ffi.new("uint8_t[?]", n), ffi.new("uint8_t[?]", n)
  ffi.fill(a, n, 1)
  ffi.copy(b, a, n)
  local best = 0
  for _ = 1, 3 do
    local t = now()
    ffi.copy(b, a, n)
    best = math.max(best, 2 * n / (now() - t))
  end
  return best
end

local bytes = bandwidth()
print(("weights %.1f MB; one thread copies %.1f GB/s; floor by memory %.0f tokens/s"):format(total / 1e6, bytes / 1e9, bytes / total))
local first
for _, spec in ipairs { "isa=avx512", "isa=avx2", "isa=avx2,threads=1", "isa=plain" } do
  local rc, message = gpu.open_error("cpu", spec)
  if rc ~= 0 then
    print(("%-20s %s"):format(spec, message))
  else
    local dev = gpu.open("cpu", spec)
    local e = dev:build(p, { max_tok = 512, max_seq = 8, max_out = 8, max_pages = context / 16, max_seq_pages = context / 16 })
    local pages = {}
    for i = 1, context / 16 do
      pages[i] = i - 1
    end
    local function chunk(at, n)
      local tok = {}
      for i = 1, n do
        tok[i] = ((at + i) * 7919) % vocab
      end
      local done = e:forward { { tok = tok, pos = at, pages = pages } }
      return tonumber(done.busy_ns) / 1e9
    end
    local slow = spec:match "plain"
    chunk(0, 8)
    local prefill = chunk(0, slow and 64 or 512)
    local function decode(at, n)
      local best, sum = math.huge, 0
      for i = 0, n - 1 do
        local t = chunk(at + i, 1)
        best, sum = math.min(best, t), sum + t
      end
      return n / sum, 1 / best
    end
    chunk(0, 64)
    local mean, best = decode(64, slow and 4 or 48)
    local logits = e:read("logits", 1)
    if not slow then
      for at = 512, 1024, 512 do
        chunk(at, 512)
      end
    end
    local far = slow and 0 or decode(1536, 16)
    if first and not slow then
      assert(gpu.same(first, logits, vocab), "logits differ between " .. spec .. " and the first line")
    end
    first = first or logits
    print(("%-20s decode %6.1f tokens/s (best %.1f), at 1536 %6.1f; prefill %6.0f tokens/s"):format(
      ffi.string(dev.caps.name), mean, best, far, (slow and 64 or 512) / prefill))
    dev:close()
  end
end
