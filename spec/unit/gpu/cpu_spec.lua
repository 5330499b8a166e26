--- gpu/cpu: what it refuses and what it says then; memory; tickets; sampling through the device.
local gpu = require "spec.support.gpu"
local ffi, C = gpu.ffi, gpu.C
local LAST = -2147483648
local EINVAL, EUNSUPPORTED = -1, -7

local function model()
  local random = gpu.random(5)
  local p = gpu.plan(100)
  local kv = p:kv { layers = 1, heads = 1, dim_k = 16, dim_v = 16 }
  local w = p:weight("BOTH", gpu.weight(random, gpu.types.Q8_0, 32, 50))
  local x = p:node("embed", {}, { n = 32 }, nil, { w })
  local k = p:node("slice", { x }, { n = 16 }, { from = 0, to = 16 })
  p:node("kv_put", { k, k }, nil, { kv = kv })
  x = p:node("attn", { x }, { n = 32 }, { kv = kv, heads = 2, scale = 0.25 })
  x = p:node("gather", { x }, { n = 32, rows = "OUT" })
  p:output(p:node("linear", { x }, { n = 50, rows = "OUT" }, nil, { w }), "logits")
  return p
end

local limits = { max_tok = 20, max_seq = 3, max_out = 4, max_slot = 4, max_pages = 8, max_seq_pages = 5 }

describe("opening the CPU device", function()
  it("takes threads, isa, page, poison, and nothing else", function()
    local dev = gpu.open("cpu", "threads=2,isa=plain,page=32,poison=1")
    assert.equal("cpu: 2 threads, plain", ffi.string(dev.caps.name))
    assert.equal(32, dev.caps.page_tokens)
    assert.equal(2, dev.caps.n_threads)
    assert.equal(1, dev.caps.numerics)
    assert.is_true(dev.caps.invariant)
    dev:close()
    dev = gpu.open("cpu", "")
    assert.equal(16, dev.caps.page_tokens)
    dev:close()
    for spec, message in pairs {
      ["thread=2"] = "cpu: unknown key 'thread'; known are threads, isa, page, poison",
      ["threads=0"] = "cpu: threads=0: a whole number from 1 to 64 is wanted",
      ["threads=65"] = "cpu: threads=65: a whole number from 1 to 64 is wanted",
      ["threads=2x"] = "cpu: threads=2x: a whole number from 1 to 64 is wanted",
      ["isa=sse9"] = "cpu: isa=sse9: plain, avx2 or avx512 are known",
      ["page=24"] = "cpu: page=24: 16 or 32",
      ["fast"] = "cpu: 'fast' is not of the form key=value",
    } do
      local rc, said = gpu.open_error("cpu", spec)
      assert.equal(EINVAL, rc)
      assert.equal(message, said)
    end
  end)
end)

describe("the CPU device", function()
  local dev, e
  before_each(function()
    dev = gpu.open("cpu", "threads=2")
    e = dev:build(model(), limits)
  end)
  after_each(function()
    dev:close()
  end)

  it("refuses numerics and limits that it cannot do", function()
    local p = model()
    local scratch, pages = ffi.new "uint64_t[1]", ffi.new "uint64_t[4]"
    local function need(change)
      local lim = gpu.limits(limits)
      for k, v in pairs(change) do
        lim[k] = v
      end
      return dev.ops.need(dev.c, p.c, lim, scratch, pages, gpu.err()), gpu.message()
    end
    local rc, message = need { numerics = 1 }
    assert.equal(EUNSUPPORTED, rc)
    assert.equal("cpu: numerics 'exact' are not built yet, only 'plain'", message)
    assert.equal(EINVAL, (need { numerics = 9 }))
    for _, change in ipairs { { max_tok = 0 }, { max_seq = 21 }, { max_out = 0 }, { max_slot = 0 }, { max_pages = 0 },
      { max_seq_pages = 9 }, { max_tok = 70000 } } do
      assert.equal(EINVAL, (need(change)))
      assert.matches("^cpu: limits out of range", (select(2, need(change))))
    end
    assert.equal(0, (need {}))
    assert.equal(0, tonumber(pages[0]) % 4096)
  end)

  it("refuses weights that it cannot hold", function()
    local lim, size = gpu.limits(limits), ffi.new "uint64_t[1]"
    local ref = ffi.new "struct mp_wref"
    ffi.copy(ref.name, "w")
    ref.ne[0], ref.ne[1] = 40, 100
    assert.equal(EUNSUPPORTED, dev.ops.w_size(dev.c, ref, 14, lim, size, gpu.err()))
    assert.equal("cpu: w: weights of type Q6_K are not supported", gpu.message())
    assert.equal(EUNSUPPORTED, dev.ops.w_size(dev.c, ref, 99, lim, size, gpu.err()))
    assert.equal(EINVAL, dev.ops.w_size(dev.c, ref, gpu.types.Q4_1, lim, size, gpu.err()))
    assert.equal("cpu: w: 40 columns are no whole number of Q4_1 blocks", gpu.message())
    ref.ne[0] = 64
    gpu.ok(dev.ops.w_size(dev.c, ref, gpu.types.Q4_1, lim, size, gpu.err()))
    assert.equal(7 * 2 * 320, tonumber(size[0])) -- 100 rows are 7 tiles of 2 blocks
    local m, src = dev:memory(65536), ffi.new("uint8_t[?]", 4000)
    assert.equal(EINVAL, dev.ops.w_put(m, 0, ref, gpu.types.Q4_1, 0, 100, src, gpu.err()))
    assert.equal("cpu: w: its place is not committed, or not at 64 bytes", gpu.message())
    gpu.ok(dev.ops.mem_commit(m, 0, 65536, true, gpu.err()))
    assert.equal(EINVAL, dev.ops.w_put(m, 32, ref, gpu.types.Q4_1, 0, 100, src, gpu.err()))
    for _, r in ipairs { { 0, 101 }, { 10, 90 }, { 0, 50 }, { 128, 1 } } do
      assert.equal(EINVAL, dev.ops.w_put(m, 0, ref, gpu.types.Q4_1, r[1], r[2], src, gpu.err()))
      assert.equal(("cpu: w: rows %d + %d of 100 cannot be put"):format(r[1], r[2]), gpu.message())
    end
    gpu.ok(dev.ops.w_put(m, 0, ref, gpu.types.Q4_1, 64, 36, src, gpu.err()))
  end)

  it("gives memory back as zeros, and says what lies outside", function()
    local m = dev:memory(3 * 4096)
    assert.equal(EINVAL, dev.ops.mem_commit(m, 4096, 3 * 4096, true, gpu.err()))
    assert.equal("cpu: memory to commit lies outside its range", gpu.message())
    gpu.ok(dev.ops.mem_commit(m, 0, 3 * 4096, true, gpu.err()))
    gpu.ok(dev.ops.mem_commit(m, 0, 4096, false, gpu.err()))
    gpu.ok(dev.ops.mem_commit(m, 0, 4096, false, gpu.err()))
    gpu.ok(dev.ops.mem_commit(m, 0, 4096, true, gpu.err()))
    local out = ffi.new "struct mp_mem *[1]"
    assert.equal(EINVAL, dev.ops.mem_reserve(dev.c, 0, out, gpu.err()))
  end)

  it("checks every step and goes on afterwards", function()
    local good = { tok = { 1, 2, 3 }, pos = 0, pages = { 1 } }
    local function refused(message, seqs, out, change)
      local step = gpu.step(e, seqs, out)
      if change then
        change(step)
      end
      local rc, said = e:try_forward(step)
      assert.equal(EINVAL, rc, message)
      assert.equal(message, said)
    end
    refused("step: 0 tokens, 1 sequences, 1 outputs; built for 20, 3, 4", { good }, nil, function(s) s.n_tok = 0 end)
    refused("step: 3 tokens, 4 sequences, 1 outputs; built for 20, 3, 4", { good }, nil, function(s) s.n_seq = 4 end)
    refused("step: 3 tokens, 1 sequences, 5 outputs; built for 20, 3, 4", { good }, nil, function(s) s.n_out = 5 end)
    refused("step: an array is missing", { good }, nil, function(s) s.pos = nil end)
    refused("step: the page table of kv group 0 is missing or too wide", { good }, nil, function(s) s.stride[0] = 6 end)
    refused("step: sequence 0: bad offsets", { good }, nil, function(s) ffi.cast("uint32_t *", s.start)[0] = 1 end)
    refused("step: sequence 0: bad offsets", { good }, nil, function(s) ffi.cast("uint32_t *", s.start)[1] = 9 end)
    refused("step: 3 tokens, but its sequences have 2", { good }, nil, function(s)
      ffi.cast("uint32_t *", s.start)[1] = 2
      ffi.cast("uint32_t *", s.kv_len)[0] = 2
    end)
    refused("step: sequence 0: slot 4; there are 4", { { tok = { 1 }, pos = 0, pages = { 1 }, slot = 4 } })
    refused("step: sequence 0: token 50; there are 50", { { tok = { 50 }, pos = 0, pages = { 1 } } })
    refused("step: sequence 0: token -2; there are 50", { { tok = { -2 }, pos = 0, pages = { 1 } } })
    refused("step: sequence 0: position 80 is out of range or out of order",
      { { tok = { 1 }, pos = 80, pages = { 1, 2, 3, 4, 5 } } })
    refused("step: sequence 0: position -1 is out of range or out of order", { good }, nil, function(s)
      ffi.cast("int32_t *", s.pos)[0] = -1
    end)
    refused("step: sequence 0: position 7 is out of range or out of order", { good }, nil, function(s)
      ffi.cast("int32_t *", s.pos)[1] = 7
    end)
    refused("step: sequence 0: 9 positions in the cache, but its last token makes 3", { good }, nil, function(s)
      ffi.cast("uint32_t *", s.kv_len)[0] = 9
    end)
    refused("step: sequence 0: 17 positions need 2 pages, its table has 1", { { tok = { 1 }, pos = 16, pages = { 1 } } })
    refused("step: sequence 0: page 8 of kv group 0; there are 8", { { tok = { 1 }, pos = 0, pages = { 8 } } })
    refused("step: output row 3 is out of range or out of order", { good }, { 3 })
    refused("step: output row 1 is out of range or out of order", { good }, { 1, 1 })
    refused("cpu: sequence 0: no token was sampled in slot 2", { { tok = { LAST }, pos = 0, pages = { 1 }, slot = 2 } })
    e:forward { good }
    e:forward({ good }, {}) -- no outputs: nothing reaches the head
  end)

  it("hands out tickets in order, each once", function()
    local seq = { tok = { 1 }, pos = 0, pages = { 1 } }
    local _, a = e:try_forward((gpu.step(e, { seq })))
    local _, b = e:try_forward((gpu.step(e, { seq })))
    assert.is_true(b > a)
    local done = ffi.new "struct mp_done"
    assert.equal(0, dev.ops.wait(dev.c, a, 0, done))
    assert.equal(0, done.rc)
    assert.is_true(done.busy_ns > 0)
    assert.equal(EINVAL, dev.ops.wait(dev.c, a, 0, done))
    assert.equal(0, dev.ops.wait(dev.c, b, 0, done))
    assert.equal(EINVAL, dev.ops.wait(dev.c, b + 1, 0, done))
  end)

  it("samples from its logits, and LAST is what it sampled", function()
    local prompt = { tok = { 4, 9, 2 }, pos = 0, pages = { 3 }, slot = 1 }
    e:forward { prompt }
    local logits = e:read("logits", 1)
    local best = 0
    for i = 1, 49 do
      best = logits[i] > logits[best] and i or best
    end
    local got = e:sample { { row = 0, slot = 1, greedy = true } }
    assert.equal(best, got[0].id)
    e:forward { { tok = { LAST }, pos = 3, pages = { 3 }, slot = 1 } }
    local late = e:read("logits", 1)
    e:forward { { tok = { 4, 9, 2, best }, pos = 0, pages = { 5 }, slot = 2 } }
    assert.is_true(gpu.same(late, (e:read("logits", 1)), 50))
    -- In a batch of picks each gets what it gets alone.
    e:forward { prompt, { tok = { 7 }, pos = 0, pages = { 6 }, slot = 0 } }
    local both = e:sample { { row = 0, slot = 1, seed = 4, index = 9 }, { row = 1, slot = 0, seed = 4, index = 9 } }
    e:forward { prompt }
    assert.equal(both[0].id, e:sample({ { row = 0, slot = 1, seed = 4, index = 9 } })[0].id)
    local ticket = ffi.new "mp_ticket[1]"
    assert.equal(EINVAL, dev.ops.sample(e.c, ffi.new("struct mp_pick[1]", { gpu.pick { row = 1 } }), 1, ticket, gpu.err()))
    assert.equal("sample: row 1; the last forward kept 1", gpu.message())
    assert.equal(EINVAL, dev.ops.slot_set(e.c, 4, nil, 0))
  end)

  it("ends with an error, not a crash, where logits are not numbers", function()
    local p = gpu.plan(8)
    local x = p:node("param", {}, { n = 20 })
    p:output(x, "logits")
    local f = dev:build(p, { max_tok = 2 })
    local sick = ffi.new "float[20]"
    sick[3] = 0 / 0
    f:feed(x, sick, 1)
    f:forward({ { tok = { 0 }, pos = 0 } }, {})
    local got = f:sample { { row = 0, slot = 0 } }
    assert.equal(1, got[0].bad)
    f:forward({ { tok = { LAST }, pos = 1 } }, {}) -- issued before anyone could know
  end)

  it("reads and is fed only what is there", function()
    e:forward { { tok = { 1 }, pos = 0, pages = { 1 } } }
    local a = ffi.new "float[60]"
    assert.equal(-4, dev.ops.read(e.c, "embedding", 0, a, 1, gpu.err()))
    assert.equal("cpu: no output 'embedding'", gpu.message())
    assert.equal(EINVAL, dev.ops.read(e.c, "logits", 1, a, 50, gpu.err()))
    assert.equal("cpu: row 1 of 1, 50 columns of 50 cannot be read", gpu.message())
    assert.equal(EINVAL, dev.ops.read(e.c, "logits", 0, a, 51, gpu.err()))
    assert.equal(EINVAL, dev.ops.feed(e.c, 0, a, 1, gpu.err()))
    assert.equal("cpu: value 0 is not fed", gpu.message())
  end)

  it("warms up", function()
    assert.equal(0, dev.ops.warm(e.c, gpu.err()))
  end)

  it("says when memory for the exec is out", function()
    require "spec.support.ffi"("core/base/mem.h")
    local p, lim = model(), gpu.limits(limits)
    local out, kv = ffi.new "struct mp_exec *[1]", ffi.new("struct mp_mem *[4]")
    local w, size = dev:memory(65536, true), ffi.new "uint64_t[1]"
    local scratch, pages = ffi.new "uint64_t[1]", ffi.new "uint64_t[4]"
    gpu.ok(dev.ops.w_size(dev.c, p.c.weights[0], gpu.types.Q8_0, lim, size, gpu.err()))
    gpu.ok(dev.ops.need(dev.c, p.c, lim, scratch, pages, gpu.err()))
    kv[0] = dev:memory(tonumber(pages[0]) * 8, true)
    local s = dev:memory(tonumber(scratch[0]), true)
    local off, types = ffi.new("uint64_t[1]"), ffi.new("uint32_t[1]", gpu.types.Q8_0)
    for nth = 1, 7 do
      C.mp_mem_fail_after(nth)
      assert.equal(-2, dev.ops.build(dev.c, p.c, lim, w, off, types, s, kv, out, gpu.err()))
      assert.equal("cpu: out of memory for the exec", gpu.message())
    end
    C.mp_mem_fail_after(0)
    off[0] = 32
    assert.equal(EINVAL, dev.ops.build(dev.c, p.c, lim, w, off, types, s, kv, out, gpu.err()))
    assert.equal("cpu: weight w0 lies outside the committed memory, or not at 64 bytes", gpu.message())
    off[0] = 0
    assert.equal(EINVAL, dev.ops.build(dev.c, p.c, lim, w, off, types, nil, kv, out, gpu.err()))
    assert.matches("^cpu: scratch memory of %d+ bytes is not committed$", gpu.message())
    kv[0] = nil
    assert.equal(EINVAL, dev.ops.build(dev.c, p.c, lim, w, off, types, s, kv, out, gpu.err()))
    assert.equal("cpu: kv group 0 has no memory for 8 pages", gpu.message())
  end)
end)
