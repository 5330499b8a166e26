--- gpu/cpu: a request's logits are the same bits alone, in a batch, chunked, on one or two threads, in any instruction set,
--- fused or one node at a time, on pages of 16 or 32 in any order: on small llama-shaped models with every weight type.
local gpu = require "spec.support.gpu"
local ffi = gpu.ffi
local seed = tonumber(os.getenv "MOONPOOL_SEED") or os.time() % 100000

--- 2 layers, grouped heads, tied embedding, residuals, gated feed-forward.
local function model(t)
  local random = gpu.random(seed)
  local p = gpu.plan(1024)
  local width, dim, heads, kv_heads, ff, vocab = t.width, t.dim, t.heads, t.kv_heads, t.ff, 200
  local function linear(x, columns, n, biased)
    local w = { p:weight("MATMUL", gpu.weight(random, t.type, columns, n, 1.5 / math.sqrt(columns))) }
    if biased then
      w[2] = p:weight("VEC", gpu.weight(random, gpu.types.F32, n, 1, 0.1))
    end
    return p:node("linear", { x }, { n = n }, nil, w)
  end
  local function norm(x, rows)
    return p:node("rms_norm", { x }, { n = width, rows = rows }, { eps = 1e-5 },
      { p:weight("VEC", gpu.weight(random, gpu.types.F32, width, 1)) })
  end
  local kv = p:kv { layers = 2, heads = kv_heads, dim_k = dim, dim_v = dim }
  local rope = p:rope(t.style or "NORM", dim, 10000)
  local embedding = p:weight("BOTH", gpu.weight(random, t.type, width, vocab))
  local x = p:node("embed", {}, { n = width }, nil, { embedding })
  for layer = 0, 1 do
    local h = norm(x)
    local q, k, v = linear(h, width, heads * dim, t.bias), linear(h, width, kv_heads * dim, t.bias), linear(h, width, kv_heads * dim)
    if t.qk_norm then
      local w = p:weight("VEC", gpu.weight(random, gpu.types.F32, dim, 1))
      q = p:node("rms_norm", { q }, { n = heads * dim }, { eps = 1e-6, group = dim }, { w })
    end
    q = p:node("rope", { q }, { n = heads * dim }, { rope = rope, heads = heads })
    k = p:node("rope", { k }, { n = kv_heads * dim }, { rope = rope, heads = kv_heads })
    p:node("kv_put", { k, v }, nil, { kv = kv, layer = layer })
    local o = p:node("attn", { q }, { n = heads * dim },
      { kv = kv, layer = layer, heads = heads, scale = 1 / math.sqrt(dim), window = layer == 1 and t.window or 0 })
    x = p:node("add", { x, linear(o, heads * dim, width) }, { n = width })
    h = norm(x)
    local g = p:node("glu", { linear(h, width, ff), linear(h, width, ff) }, { n = ff }, { act = ffi.C.MP_ACT_SILU })
    x = p:node("add", { linear(g, ff, width, t.bias), x }, { n = width })
  end
  x = norm(p:node("gather", { x }, { n = width, rows = "OUT" }), "OUT")
  p:output(p:node("linear", { x }, { n = vocab, rows = "OUT" }, nil, { embedding }), "logits")
  return p, vocab
end

local function prompt(k, n)
  local random, tok = gpu.random(seed + 1000 * k), {}
  for i = 1, n do
    tok[i] = random.below(200)
  end
  return tok
end

--- Page ids of sequence k: scattered, disjoint from others'.
local function pages(k, n)
  local ids = {}
  for i = 1, n do
    ids[i] = (i * 37 + k * 101) % 40 + 40 * k
  end
  return ids
end

local function slice(tok, from, n)
  local part = {}
  for i = 1, n do
    part[i] = tok[from + i]
  end
  return part
end

--- Logits at every position of prompt k, computed alone in chunks.
local function alone(spec, t, k, n, chunk, no_fuse)
  local p, vocab = model(t)
  local dev = gpu.open("cpu", spec)
  local e = dev:build(p, { max_tok = 512, max_pages = 400, max_seq_pages = 40, no_fuse = no_fuse })
  local tok, out, at = prompt(k, n), ffi.new("float[?]", n * vocab), 0
  while at < n do
    local size = math.min(chunk, n - at)
    e:forward({ { tok = slice(tok, at, size), pos = at, pages = pages(0, 40) } }, "all")
    ffi.copy(out + at * vocab, (e:read("logits", size)), size * vocab * 4)
    at = at + size
  end
  dev:close()
  return out
end

--- The same for several prompts at once, each in chunks of its own size, so that steps mix prefill and decode.
local function together(spec, t, lengths, chunks)
  local p, vocab = model(t)
  local dev = gpu.open("cpu", spec)
  local e = dev:build(p, { max_tok = 512, max_pages = 400, max_seq_pages = 40 })
  local tok, out, at, sizes = {}, {}, {}, 0
  for k, n in ipairs(lengths) do
    tok[k], out[k], at[k] = prompt(k, n), ffi.new("float[?]", n * vocab), 0
  end
  local steps = 0
  while true do
    local seqs, who = {}, {}
    for k, n in ipairs(lengths) do
      local size = math.min(chunks[k], n - at[k])
      if size > 0 then
        seqs[#seqs + 1] = { tok = slice(tok[k], at[k], size), pos = at[k], pages = pages(k, 40), slot = k }
        who[#who + 1] = { k, size }
      end
    end
    if #seqs == 0 then
      break
    end
    steps, sizes = steps + 1, sizes + #seqs
    e:forward(seqs, "all")
    local rows = 0
    for _, w in ipairs(who) do
      rows = rows + w[2]
    end
    local all, row = e:read("logits", rows), 0
    for _, w in ipairs(who) do
      ffi.copy(out[w[1]] + at[w[1]] * vocab, all + row * vocab, w[2] * vocab * 4)
      row, at[w[1]] = row + w[2], at[w[1]] + w[2]
    end
  end
  dev:close()
  return out, sizes / steps
end

local function isas()
  local list = { "isa=plain" }
  for _, isa in ipairs { "avx2", "avx512" } do
    if gpu.open_error("cpu", "isa=" .. isa) == 0 then
      list[#list + 1] = "isa=" .. isa
    end
  end
  return list
end

describe("batch invariance (seed " .. seed .. ")", function()
  local all = isas()
  local best = all[#all]
  local models = {}
  for name, type in pairs(gpu.types) do
    models[#models + 1] = { name = name, type = type, width = 64, dim = 32, heads = 4, kv_heads = 2, ff = 96,
      style = name == "F16" and "NEOX" or "NORM", bias = name == "Q8_0", qk_norm = name == "BF16", window = name == "Q4_0" and 20 or 0 }
  end
  models[#models + 1] = { name = "Q4_1, heads of 64", type = gpu.types.Q4_1, width = 192, dim = 64, heads = 3, kv_heads = 1, ff = 256 }
  for _, t in ipairs(models) do
    it("holds for a model of " .. t.name, function()
      local vocab, n = 200, 70
      local want = alone("isa=plain,threads=1,poison=1", t, 1, n, 512)
      for i = 0, n * vocab - 1 do
        assert.is_true(want[i] == want[i] and math.abs(want[i]) < 1e4, "not a number")
      end
      local function same(got, how)
        assert.is_true(gpu.same(want, got, n * vocab), how .. ": other bits")
      end
      same(alone("isa=plain,threads=1,poison=1", t, 1, n, 512, true), "plain, one node at a time")
      for _, isa in ipairs(all) do
        same(alone(isa .. ",threads=1", t, 1, n, 7), isa .. ", chunks of 7")
        same(alone(isa .. ",threads=2,poison=1", t, 1, n, 64), isa .. ", chunks of 64, two threads")
        same(alone(isa .. ",threads=3,page=32", t, 1, n, 512, true), isa .. ", one node at a time, three threads")
      end
      same(alone(best .. ",threads=2", t, 1, n, 1), "token by token")
      local lengths, chunks = { n, 33, 90, 8, 64, 50, 48, 61 }, { 9, 4, 12, 1, 64, 6, 7, 8 }
      for _, isa in ipairs { all[1], best } do
        local out, mean = together(isa .. ",threads=2,poison=1", t, lengths, chunks)
        assert.is_true(mean >= 4, "mean batch " .. mean)
        same(out[1], isa .. ", in a batch of 8")
        for k = 2, 3 do
          assert.is_true(gpu.same(out[k], alone(best .. ",threads=1", t, k, lengths[k], 512), lengths[k] * vocab), "sequence " .. k)
        end
      end
    end)
  end

  it("holds across attention splits, decoded by several threads", function()
    local t = { type = gpu.types.Q4_1, width = 64, dim = 32, heads = 4, kv_heads = 2, ff = 96 }
    local n, vocab = 600, 200
    local want = alone("isa=plain,threads=1", t, 1, n, 512)
    for _, spec in ipairs { best .. ",threads=1", best .. ",threads=2", best .. ",threads=4,page=32" } do
      -- The last tokens one by one: few units of work, so that splits go to different threads.
      local p = model(t)
      local dev = gpu.open("cpu", spec)
      local e = dev:build(p, { max_tok = 512, max_pages = 400, max_seq_pages = 40 })
      local tok, at = prompt(1, n), 0
      while at < n do
        local size = at < 590 and math.min(295, 590 - at) or 1
        e:forward { { tok = slice(tok, at, size), pos = at, pages = pages(0, 40) } }
        at = at + size
        if at >= 590 then
          assert.is_true(gpu.same(want + (at - 1) * vocab, (e:read("logits", 1)), vocab), spec .. " at " .. at)
        end
      end
      dev:close()
    end
  end)

  it("reads a page that was copied, and forgets one that was given back", function()
    local t = { type = gpu.types.F32, width = 64, dim = 32, heads = 4, kv_heads = 2, ff = 96 }
    local p, vocab = model(t)
    local dev = gpu.open("cpu", best .. ",threads=2")
    local e = dev:build(p, { max_tok = 64, max_pages = 16 })
    local tok = prompt(1, 40)
    e:forward { { tok = slice(tok, 0, 39), pos = 0, pages = { 1, 2, 3 } } }
    e:forward { { tok = slice(tok, 39, 1), pos = 39, pages = { 1, 2, 3 } } }
    local want = e:read("logits", 1)
    local ticket = ffi.new "mp_ticket[1]"
    for i = 1, 3 do
      gpu.ok(dev.ops.kv_copy(e.c, 0, i, 4 + i, ticket, gpu.err()))
      e:wait(ticket[0])
      gpu.ok(dev.ops.mem_commit(e.kv[0], i * e.page_bytes[0], e.page_bytes[0], false, gpu.err()))
    end
    e:forward { { tok = slice(tok, 39, 1), pos = 39, pages = { 5, 6, 7 } } }
    assert.is_true(gpu.same(want, (e:read("logits", 1)), vocab))
    local rc, message = e:try_forward((gpu.step(e, { { tok = { 1 }, pos = 39, pages = { 1, 6, 7 } } })))
    assert.equal(-1, rc)
    assert.equal("cpu: sequence 0: page 1 of kv group 0 is not committed", message)
    dev:close()
  end)
end)
