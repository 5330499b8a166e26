--- gpu: the op table. Every op × shape × type as a plan of one op (PARAM → op → OUTPUT) against a float64 reference on fresh
--- random inputs, with value buffers poisoned first; every instruction set of the CPU device against plain C bit for bit;
--- fused against one node at a time.
local gpu = require "spec.support.gpu"
local ffi = gpu.ffi
local seed = tonumber(os.getenv "MOONPOOL_SEED") or os.time() % 100000
local U = 2 ^ -24 -- unit roundoff of float32

--- Devices under test. Later ones must give the first one's bits.
local function specs()
  local list = { { "cpu", "isa=plain,threads=1,poison=1" } }
  for _, isa in ipairs { "avx2", "avx512" } do
    if gpu.open_error("cpu", "isa=" .. isa .. ",threads=1") == 0 then
      list[#list + 1] = { "cpu", "isa=" .. isa .. ",threads=2,poison=1", isa }
    end
  end
  return list
end

local function values(random, rows, n, size)
  local a = ffi.new("float[?]", rows * n)
  for i = 0, rows * n - 1 do
    a[i] = random.normal() * (size or 1)
  end
  return a
end

local function sigmoid(x)
  return 1 / (1 + math.exp(-x))
end

local function tanh(x)
  return 1 - 2 / (math.exp(2 * x) + 1)
end

local function erf(x) -- by its series, or 1 far out; enough for 1e-12
  if math.abs(x) > 5 then
    return x > 0 and 1 or -1
  end
  local term, sum = x, x
  for k = 1, 200 do
    term = -term * x * x / k
    sum = sum + term / (2 * k + 1)
  end
  return 2 / math.sqrt(math.pi) * sum
end

local acts = {
  { "SILU", function(x) return x * sigmoid(x) end },
  { "GELU_TANH", function(x) return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ^ 3))) end },
  { "GELU_ERF", function(x) return 0.5 * x * (1 + erf(x / math.sqrt(2))) end },
  { "RELU", function(x) return math.max(x, 0) end },
  { "TANH", tanh },
  { "SIGMOID", sigmoid },
}

--- Each row: a name, and a function (random, plan) → inputs (list of { val, data }), output value, rows, reference
--- (r, c → value, tolerance). rows: token rows of the step.
local rows = {}

local function row(name, make)
  rows[#rows + 1] = { name = name, make = make }
end

local function param(random, p, tokens, n, size)
  local v = p:node("param", {}, { n = n })
  return { val = v, data = values(random, tokens, n, size), n = n }
end

for name, type in pairs(gpu.types) do
  -- columns, rows, tokens; with a bias or without
  local shapes = { { 32, 16, 1 }, { 64, 48, 3 }, { 96, 40, 5 }, { 288, 130, 9 }, { 64, 16, 70 }, { 576, 64, 4 } }
  if name:match "F" then
    shapes[#shapes + 1] = { 1, 1, 1 }
    shapes[#shapes + 1] = { 39, 17, 6 }
    shapes[#shapes + 1] = { 77, 33, 2 }
  end
  for i, s in ipairs(shapes) do
    local columns, n, tokens, biased = s[1], s[2], s[3], i % 2 == 0
    row(("linear %s %dx%d, %d tokens%s"):format(name, columns, n, tokens, biased and ", bias" or ""), function(random, p)
      local x = param(random, p, tokens, columns)
      local w = gpu.weight(random, type, columns, n, 0.3)
      local bias = biased and gpu.weight(random, gpu.types.F32, n, 1)
      local ids = { p:weight("MATMUL", w), bias and p:weight("VEC", bias) }
      local y = p:node("linear", { x.val }, { n = n }, nil, ids)
      return { x }, y, tokens, function(r, c)
        local sum, size = 0, 0
        for k = 0, columns - 1 do
          sum = sum + x.data[r * columns + k] * w.values[c * columns + k]
          size = size + math.abs(x.data[r * columns + k]) * w.magnitudes[c * columns + k]
        end
        if bias then
          sum, size = sum + bias.values[c], size + math.abs(bias.values[c])
        end
        return sum, (columns / 32 + 16) * U * size + 1e-30
      end
    end)
  end
end

for _, s in ipairs {
  { 64, 3, 0, true }, { 576, 2, 0, true }, { 40, 5, 0, false }, { 192, 2, 64, true }, { 96, 3, 32, true }, { 30, 2, 10, true },
} do
  local n, tokens, group, weighted = s[1], s[2], s[3], s[4]
  row(("rms_norm %d, group %d%s"):format(n, group, weighted and "" or ", no weight"), function(random, p)
    local x = param(random, p, tokens, n)
    local w = weighted and gpu.weight(random, gpu.types.F32, group > 0 and group or n, 1)
    local y = p:node("rms_norm", { x.val }, { n = n }, { eps = 1e-5, group = group }, { w and p:weight("VEC", w) })
    return { x }, y, tokens, function(r, c)
      local g = group > 0 and group or n
      local first, sum = math.floor(c / g) * g, 0
      for k = first, first + g - 1 do
        sum = sum + x.data[r * n + k] ^ 2
      end
      local v = x.data[r * n + c] / math.sqrt(sum / g + 1e-5) * (w and w.values[c - first] or 1)
      return v, (g / 16 + 12) * U * math.abs(v) + 1e-30
    end
  end)
end

for _, s in ipairs { { 64, 3, true }, { 77, 2, false }, { 576, 2, true } } do
  local n, tokens, biased = s[1], s[2], s[3]
  row(("layer_norm %d%s"):format(n, biased and ", bias" or ""), function(random, p)
    local x = param(random, p, tokens, n)
    local w, b = gpu.weight(random, gpu.types.F32, n, 1), biased and gpu.weight(random, gpu.types.F32, n, 1)
    local y = p:node("layer_norm", { x.val }, { n = n }, { eps = 1e-5 }, { p:weight("VEC", w), b and p:weight("VEC", b) })
    return { x }, y, tokens, function(r, c)
      local mean, var, largest = 0, 0, 0
      for k = 0, n - 1 do
        mean = mean + x.data[r * n + k] / n
        largest = math.max(largest, math.abs(x.data[r * n + k]))
      end
      for k = 0, n - 1 do
        var = var + (x.data[r * n + k] - mean) ^ 2 / n
      end
      local inv = 1 / math.sqrt(var + 1e-5)
      local v = (x.data[r * n + c] - mean) * inv * w.values[c] + (b and b.values[c] or 0)
      return v, (n / 16 + 16) * U * (largest * inv * math.abs(w.values[c]) + (b and math.abs(b.values[c]) or 0)) + 1e-30
    end
  end)
end

for _, n in ipairs { 64, 37, 1 } do
  for _, op in ipairs { "add", "mul" } do
    row(op .. " " .. n, function(random, p)
      local a, b = param(random, p, 3, n), param(random, p, 3, n)
      local y = p:node(op, { a.val, b.val }, { n = n })
      return { a, b }, y, 3, function(r, c)
        local u, v = a.data[r * n + c], b.data[r * n + c]
        local exact = op == "add" and u + v or u * v
        return exact, 2 * U * math.abs(exact)
      end
    end)
  end
  row("scale " .. n, function(random, p)
    local x = param(random, p, 3, n)
    return { x }, p:node("scale", { x.val }, { n = n }, { scale = 0.37 }), 3, function(r, c)
      local v = x.data[r * n + c] * 0.37
      return v, 4 * U * math.abs(v)
    end
  end)
  row("softcap " .. n, function(random, p)
    local x = param(random, p, 3, n, 20)
    return { x }, p:node("softcap", { x.val }, { n = n }, { softcap = 30 }), 3, function(r, c)
      local v = 30 * tanh(x.data[r * n + c] / 30)
      return v, 16 * U * math.abs(v) + 1e-9
    end
  end)
  for _, act in ipairs(acts) do
    local attr = { act = ffi.C["MP_ACT_" .. act[1]] }
    row(("act %s %d"):format(act[1]:lower(), n), function(random, p)
      local x = param(random, p, 4, n, 3)
      x.data[0] = 95 * (random.uniform() - 0.5) * 2 -- far out, where exp over- or underflows
      return { x }, p:node("act", { x.val }, { n = n }, attr), 4, function(r, c)
        local u = x.data[r * n + c]
        local v = act[2](u)
        return v, 16 * U * math.abs(v) + 4e-7 * math.min(1, math.abs(u)) + 2e-7 * math.abs(u)
      end
    end)
    row(("glu %s %d"):format(act[1]:lower(), n), function(random, p)
      local g, u = param(random, p, 2, n, 3), param(random, p, 2, n)
      return { g, u }, p:node("glu", { g.val, u.val }, { n = n }, attr), 2, function(r, c)
        local v = act[2](g.data[r * n + c]) * u.data[r * n + c]
        return v, 16 * U * math.abs(v) + 4e-7 * math.abs(u.data[r * n + c]) * (1 + math.abs(g.data[r * n + c]))
      end
    end)
  end
end

for _, s in ipairs { { "NORM", 64, 64, 3 }, { "NEOX", 64, 64, 3 }, { "NORM", 32, 48, 2 }, { "NEOX", 20, 40, 2 }, { "NORM", 6, 10, 1 } } do
  local style, dims, size, heads = s[1], s[2], s[3], s[4]
  row(("rope %s %d of %d, %d heads"):format(style:lower(), dims, size, heads), function(random, p)
    local n = size * heads
    local x = param(random, p, 5, n)
    local table_id = p:rope(style, dims, 10000, 1.25)
    local freq = p.c.ropes[table_id].freq
    return { x }, p:node("rope", { x.val }, { n = n }, { rope = table_id, heads = heads }), 5, function(r, c, pos)
      local i, base = c % size, r * n + c - c % size
      if i >= dims then
        return x.data[r * n + c], 0
      end
      local pair, other, sign
      if style == "NEOX" then
        pair, other, sign = i % (dims / 2), i < dims / 2 and i + dims / 2 or i - dims / 2, i < dims / 2 and -1 or 1
      else
        pair, other, sign = math.floor(i / 2), i % 2 == 0 and i + 1 or i - 1, i % 2 == 0 and -1 or 1
      end
      local angle = pos * freq[pair]
      local a, b = x.data[base + i] * math.cos(angle) * 1.25, x.data[base + other] * math.sin(angle) * 1.25
      return a + sign * b, 4 * U * (math.abs(a) + math.abs(b))
    end
  end)
end

row("slice", function(random, p)
  local x = param(random, p, 3, 50)
  return { x }, p:node("slice", { x.val }, { n = 21 }, { from = 13, to = 34 }), 3, function(r, c)
    return x.data[r * 50 + 13 + c], 0
  end
end)

for name, type in pairs(gpu.types) do
  row("embed " .. name, function(random, p)
    local w = gpu.weight(random, type, 64, 50)
    local y = p:node("embed", {}, { n = 64 }, { scale = name == "F16" and 8 or 0 }, { p:weight("EMBED", w) })
    return {}, y, 7, function(_, c, _, tok)
      local v = w.values[tok * 64 + c] * (name == "F16" and 8 or 1)
      return v, U * math.abs(v)
    end
  end)
end

--- Runs a row on a device; returns its output.
local function run(case, device, no_fuse)
  local random = gpu.random(seed)
  local p = gpu.plan(200)
  local inputs, y, tokens = case.make(random, p)
  p:output(y, "y")
  local dev = gpu.open(device[1], device[2])
  local e = dev:build(p, { max_tok = 80, no_fuse = no_fuse })
  for _, input in ipairs(inputs) do
    e:feed(input.val, input.data, tokens)
  end
  local tok = {}
  for i = 1, tokens do
    tok[i] = (i * 17) % 50
  end
  e:forward({ { tok = tok, pos = 100 } }, {})
  local out, n = e:read("y", tokens)
  dev:close()
  return out, n
end

describe("the op table (seed " .. seed .. ")", function()
  local devices = specs()
  for _, case in ipairs(rows) do
    it(case.name, function()
      local p = gpu.plan(200)
      local _, y, tokens, reference = case.make(gpu.random(seed), p)
      local columns = p.vals[y].n
      local plain, n = run(case, devices[1])
      for r = 0, tokens - 1 do
        for c = 0, columns - 1 do
          local want, tolerance = reference(r, c, 100 + r, ((r + 1) * 17) % 50)
          local got = plain[r * columns + c]
          if got ~= got or math.abs(got - want) > tolerance then
            error(("row %d, column %d: %.9g, should be %.9g within %.3g"):format(r, c, got, want, tolerance))
          end
        end
      end
      for i = 2, #devices do
        assert.is_true(gpu.same(plain, (run(case, devices[i])), n), devices[i][3] .. " differs from plain")
      end
    end)
  end
  for _, isa in ipairs { "avx2", "avx512" } do
    local rc, message = gpu.open_error("cpu", "isa=" .. isa)
    if rc ~= 0 then
      pending("the op table on " .. isa .. ": " .. message)
    end
  end
end)

--- Attention by the textbook, in doubles: for one token, all earlier ones seen.
local function attention(q, k, v, heads, kv_heads, dim, attr, pos, head)
  local scores, total, out = {}, 0, {}
  local kv_head = math.floor(head / (heads / kv_heads))
  local first = attr.window and attr.window > 0 and math.max(0, pos - attr.window + 1) or 0
  local best = -math.huge
  for j = first, pos do
    local s = 0
    for i = 0, dim - 1 do
      s = s + q[pos * heads * dim + head * dim + i] * k[j * kv_heads * dim + kv_head * dim + i]
    end
    s = s * attr.scale
    if attr.softcap and attr.softcap > 0 then
      s = attr.softcap * tanh(s / attr.softcap)
    end
    scores[j], best = s, math.max(best, s)
  end
  for j = first, pos do
    scores[j] = math.exp(scores[j] - best)
    total = total + scores[j]
  end
  for i = 0, dim - 1 do
    local o = 0
    for j = first, pos do
      o = o + scores[j] / total * v[j * kv_heads * dim + kv_head * dim + i]
    end
    out[i] = o
  end
  return out
end

describe("attention", function()
  local cases = {
    { heads = 4, kv_heads = 2, dim = 64, tokens = 70 },
    { heads = 3, kv_heads = 1, dim = 32, tokens = 40, window = 9 },
    { heads = 2, kv_heads = 2, dim = 40, tokens = 300, softcap = 20 },
    { heads = 18, kv_heads = 2, dim = 20, tokens = 33, window = 33 },
    { heads = 1, kv_heads = 1, dim = 7, tokens = 5 },
  }
  for _, t in ipairs(cases) do
    it(("%d heads over %d of %d, %d tokens, window %d, cap %d"):format(t.heads, t.kv_heads, t.dim, t.tokens, t.window or 0,
      t.softcap or 0), function()
      local random = gpu.random(seed)
      local nq, nk = t.heads * t.dim, t.kv_heads * t.dim
      local q, k, v = values(random, t.tokens, nq), values(random, t.tokens, nk), values(random, t.tokens, nk)
      local attr = { heads = t.heads, scale = 1 / math.sqrt(t.dim), softcap = t.softcap or 0, window = t.window or 0 }
      local function outcome(spec, page, parts)
        local p = gpu.plan(512)
        local kv = p:kv { layers = 2, heads = t.kv_heads, dim_k = t.dim, dim_v = t.dim }
        local vq, vk, vv = p:node("param", {}, { n = nq }), p:node("param", {}, { n = nk }), p:node("param", {}, { n = nk })
        p:node("kv_put", { vk, vv }, nil, { kv = kv, layer = 1 })
        attr.kv, attr.layer = kv, 1
        p:output(p:node("attn", { vq }, { n = nq }, attr), "y")
        local dev = gpu.open("cpu", spec .. ",page=" .. page)
        local e = dev:build(p, { max_tok = 300, max_pages = 40 })
        local pages = {}
        for i = 1, 40 do
          pages[i] = (i * 7) % 40 -- scattered
        end
        local out = ffi.new("float[?]", t.tokens * nq)
        local at = 0
        while at < t.tokens do
          local n = math.min(parts, t.tokens - at)
          e:feed(vq, q + at * nq, n)
          e:feed(vk, k + at * nk, n)
          e:feed(vv, v + at * nk, n)
          local tok = {}
          for i = 1, n do
            tok[i] = 0
          end
          e:forward({ { tok = tok, pos = at, pages = pages } }, {})
          ffi.copy(out + at * nq, (e:read("y", n)), n * nq * 4)
          at = at + n
        end
        dev:close()
        return out
      end
      local plain = outcome("isa=plain,threads=1,poison=1", 16, 300)
      for _, pos in ipairs { 0, math.floor(t.tokens / 2), t.tokens - 1 } do
        for head = 0, t.heads - 1 do
          local want = attention(q, k, v, t.heads, t.kv_heads, t.dim, attr, pos, head)
          for i = 0, t.dim - 1 do
            local got = plain[pos * nq + head * t.dim + i]
            assert.is_true(math.abs(got - want[i]) <= 60 * U * 4, ("%g, should be %g"):format(got, want[i]))
          end
        end
      end
      local n = t.tokens * nq
      assert.is_true(gpu.same(plain, outcome("isa=plain,threads=2", 32, 7), n), "chunks of 7, pages of 32")
      for _, device in ipairs(specs()) do
        assert.is_true(gpu.same(plain, outcome(device[2], 16, 64), n), device[2])
        assert.is_true(gpu.same(plain, outcome(device[2], 32, 1), n), device[2] .. " token by token")
      end
    end)
  end
end)
