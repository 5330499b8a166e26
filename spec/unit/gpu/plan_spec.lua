--- gpu/lower/plan and blocks: what a plan must keep to, how it prints, types, f16.
local gpu = require "spec.support.gpu"
local ffi, C = gpu.ffi, gpu.C

local function w(columns, rows)
  return { columns = columns, rows = rows }
end

--- A small right plan; `change` may break it.
local function plan(change)
  local p = gpu.plan(128)
  p.kv_id = p:kv { layers = 1, heads = 1, dim_k = 8, dim_v = 8 }
  p.rope_id = p:rope("NEOX", 8, 10000)
  p.table = p:weight("BOTH", w(16, 100))
  p.x = p:node("embed", {}, { n = 16 }, { scale = 2 }, { p.table })
  p.norm = p:weight("VEC", w(16, 1))
  p.h = p:node("rms_norm", { p.x }, { n = 16 }, { eps = 1e-5 }, { p.norm })
  p.k = p:node("linear", { p.h }, { n = 8 }, nil, { p:weight("MATMUL", w(16, 8)) })
  p.r = p:node("rope", { p.k }, { n = 8 }, { heads = 1, rope = p.rope_id })
  p:node("kv_put", { p.r, p.k }, nil, { kv = p.kv_id })
  p.o = p:node("attn", { p.h }, { n = 16 }, { kv = p.kv_id, heads = 2, scale = 0.5 })
  p.g = p:node("gather", { p.o }, { n = 16, rows = "OUT" })
  if change then
    change(p)
  end
  p:output(p:node("linear", { p.g }, { n = 100, rows = "OUT" }, nil, { p.table }), "logits")
  return p
end

describe("a plan", function()
  it("is accepted when it is right, prints itself, counts its flops", function()
    local p = plan()
    assert.equal(0, p:check(), gpu.message())
    assert.equal(2 * (16 * 8 + 16 * 100), tonumber(C.mp_plan_flops(p.c)))
    local text = p:text()
    assert.matches("^plan: 9 nodes, 3 weights, vocabulary 100, context 128, 3456 flops per token\n", text)
    assert.truthy(text:find("kv0: 1 layers, 1 heads, k 8, v 8\n", 1, true))
    assert.truthy(text:find("%0 tok[16] = embed w0(both 16x100) scale=2\n", 1, true))
    assert.truthy(text:find("%3 tok[8] = rope %2 heads=1 table=0(neox 8)\n", 1, true))
    assert.truthy(text:find("kv_put %3 %2 kv0.0\n", 1, true))
    assert.truthy(text:find("%4 tok[16] = attn %1 kv0.0 heads=2 scale=0.5\n", 1, true))
    assert.truthy(text:find("%6 out[100] = linear %5 w0(both 16x100)\n", 1, true))
    assert.truthy(text:find("output %6 logits\n", 1, true))
  end)

  local function refused(pattern, change)
    local p = plan(change)
    assert.equal(ffi.C.MP_EINVAL, p:check(), "accepted, but should say: " .. pattern)
    assert.matches(pattern, gpu.message())
  end

  it("is refused for ids that are not there", function()
    refused("^plan: node 7 %(slice, layer %-1%): reads a value that no node before it makes$", function(p)
      p:node("slice", { 50 }, { n = 3 }, { from = 0, to = 3 })
    end)
    refused("makes a value that is not there or was made before$", function(p)
      local n = ffi.new "struct mp_node"
      n.op, n.out = ffi.C.MP_OP_PARAM, p.x
      n["in"][0], n["in"][1], n.w[0], n.w[1] = gpu.NONE, gpu.NONE, gpu.NONE, gpu.NONE
      C.mp_plan_node(p.c, n)
    end)
    refused("names a weight that is not there$", function(p)
      p:node("linear", { p.x }, { n = 4 }, nil, { 77 })
    end)
    refused("has the wrong number of inputs$", function(p)
      p:node("add", { p.x }, { n = 16 })
    end)
    refused("has the wrong number of weights$", function(p)
      p:node("linear", { p.x }, { n = 4 })
    end)
    refused("has no output$", function(p)
      p:node("scale", { p.x }, nil, { scale = 1 })
    end)
    refused("unknown op$", function(p)
      p.c.nodes[2].op = 200
    end)
  end)

  it("is refused for shapes and attributes that disagree", function()
    refused("shapes of input, weight and output disagree$", function(p)
      p:node("linear", { p.k }, { n = 8 }, nil, { p:weight("MATMUL", w(16, 8)) })
    end)
    refused("its weight's role is not matmul or both$", function(p)
      p:node("linear", { p.x }, { n = 8 }, nil, { p:weight("EMBED", w(16, 8)) })
    end)
    refused("the bias has another shape$", function(p)
      p:node("linear", { p.x }, { n = 8 }, nil, { p:weight("MATMUL", w(16, 8)), p.norm })
    end)
    refused("shapes disagree$", function(p)
      p:node("add", { p.x, p.k }, { n = 16 })
    end)
    refused("shapes disagree$", function(p)
      p:node("mul", { p.x, p.g }, { n = 16 })
    end)
    refused("shapes disagree, or the columns are no whole number of groups$", function(p)
      p:node("rms_norm", { p.x }, { n = 16 }, { group = 5 })
    end)
    refused("shapes disagree, or an unknown activation$", function(p)
      p:node("act", { p.x }, { n = 16 }, { act = 17 })
    end)
    refused("shapes disagree, or the cap is 0$", function(p)
      p:node("softcap", { p.x }, { n = 16 })
    end)
    refused("the columns lie outside the input or disagree with the output$", function(p)
      p:node("slice", { p.x }, { n = 8 }, { from = 10, to = 18 })
    end)
    refused("heads do not divide the columns, or are smaller than the table$", function(p)
      p:node("rope", { p.x }, { n = 16 }, { heads = 3, rope = 0 })
    end)
    refused("no such rope table$", function(p)
      p:node("rope", { p.x }, { n = 16 }, { heads = 1, rope = 1 })
    end)
    refused("puts to a layer a second time$", function(p)
      p:node("kv_put", { p.r, p.k }, nil, { kv = 0 })
    end)
    refused("no such kv group or layer$", function(p)
      p:node("attn", { p.h }, { n = 16 }, { kv = 0, layer = 1, heads = 2, scale = 1 })
    end)
    refused("heads do not agree with the kv group$", function(p)
      p:node("attn", { p.h }, { n = 16 }, { kv = 0, heads = 4, scale = 1 })
    end)
    refused("the scale must be above 0$", function(p)
      p:node("attn", { p.h }, { n = 16 }, { kv = 0, heads = 2 })
    end)
    refused("eps, scale or softcap is out of range$", function(p)
      p:node("rms_norm", { p.x }, { n = 16 }, { eps = 0 / 0 })
    end)
    refused("goes from tok to out, columns equal$", function(p)
      p:node("gather", { p.x }, { n = 16 })
    end)
    refused("another output has its name$", function(p)
      p:output(p.x, "embedding")
      p:output(p.h, "embedding")
    end)
    refused("the columns of logits are not the plan's vocabulary$", function(p)
      p:output(p.x, "logits")
      p.c.n_vocab = 17
    end)
  end)

  it("is refused for tables out of range", function()
    refused("^plan: a context of 0;", function(p)
      p.c.n_context = 0
    end)
    refused("^plan: value %%2 has a bad shape$", function(p)
      p.c.vals[2].n = 0
    end)
    refused("^plan: rope table 0: bad style, size or factor$", function(p)
      p.c.ropes[0].dims = 7
    end)
    refused("^plan: rope table 0: frequency 1 is not finite$", function(p)
      p.c.ropes[0].freq[1] = 1 / 0
    end)
    refused("^plan: weight w1 has a bad role or shape$", function(p)
      p.c.weights[1].ne[1] = 2
    end)
    refused("^plan: weight 3 has no name, or one of more than 63 bytes$", function(p)
      C.mp_plan_weight(p.c, ("x"):rep(64), 0, 1, 1)
    end)
    refused("^plan: kv group 0: layers, heads or head sizes out of range$", function(p)
      p.c.kvs[0].dim_k = 513
    end)
    local p = plan(function(q)
      q.c.kvs[0].dim_v = 0
    end)
    assert.equal(ffi.C.MP_EUNSUPPORTED, p:check())
    assert.equal("plan: kv group 0: values inside keys (MLA) are not built yet", gpu.message())
    p = gpu.plan(1)
    assert.equal(ffi.C.MP_EINVAL, p:check())
    p:node("param", {}, { n = 1 })
    assert.equal(ffi.C.MP_EINVAL, p:check())
    assert.equal("plan: it has no output", gpu.message())
  end)
end)

describe("storage types", function()
  it("know their sizes", function()
    local bytes = ffi.new "uint64_t[1]"
    for type, per in pairs { F32 = 128, F16 = 64, BF16 = 64, Q8_0 = 34, Q4_0 = 18, Q4_1 = 20 } do
      assert.is_true(C.mp_type_row_bytes(gpu.types[type], 32, bytes))
      assert.equal(per, tonumber(bytes[0]))
      assert.equal(type, ffi.string(C.mp_type_info(gpu.types[type]).name))
    end
    assert.is_false(C.mp_type_row_bytes(gpu.types.Q4_1, 33, bytes))
    assert.is_false(C.mp_type_row_bytes(5, 32, bytes))
    assert.is_false(C.mp_type_row_bytes(0, -1, bytes)) -- 2^64 - 1 floats
    assert.is_true(C.mp_type_info(4) == nil)
    assert.is_false(C.mp_type_info(14).computes) -- Q6_K
  end)

  it("come back as the values that their blocks say", function()
    local out = ffi.new "float[32]"
    local q4 = ffi.new("uint8_t[20]", { 0x00, 0x38, 0x00, 0xbc }) -- d 0.5, m -1
    for i = 0, 15 do
      q4[4 + i] = i + 16 * (15 - i)
    end
    C.mp_type_to_f32(gpu.types.Q4_1, q4, out, 32)
    for i = 0, 15 do
      assert.equal(0.5 * i - 1, out[i])
      assert.equal(0.5 * (15 - i) - 1, out[16 + i])
    end
    local q40 = ffi.new("uint8_t[18]", { 0x00, 0x40, 0x3a }) -- d 2; 10 and 3
    C.mp_type_to_f32(gpu.types.Q4_0, q40, out, 32)
    assert.equal(2 * (10 - 8), out[0])
    assert.equal(2 * (3 - 8), out[16])
    local q8 = ffi.new("uint8_t[34]", { 0x00, 0x34, 0xff, 0x7f }) -- d 0.25; -1, 127
    C.mp_type_to_f32(gpu.types.Q8_0, q8, out, 32)
    assert.equal(-0.25, out[0])
    assert.equal(127 * 0.25, out[1])
  end)

  it("convert f16 both ways, every value", function()
    for h = 0, 65535 do
      local exponent, mantissa, sign = math.floor(h / 1024) % 32, h % 1024, h >= 32768 and -1 or 1
      local nan = exponent == 31 and mantissa > 0
      local f = nan and sign < 0 and 0 or C.mp_f16_to_f32(h) -- LuaJIT cannot hold a negative NaN
      if exponent == 31 then
        assert.is_true(f == sign / 0 or nan and (sign < 0 or f ~= f))
      else
        local want = exponent == 0 and mantissa * 2 ^ -24 or (1024 + mantissa) * 2 ^ (exponent - 25)
        if f ~= sign * want or C.mp_f32_to_f16(f) ~= h then
          error(("%04x"):format(h))
        end
      end
    end
    assert.equal(0x7c00, C.mp_f32_to_f16(65520))
    assert.equal(0x7bff, C.mp_f32_to_f16(65519.996))
    assert.equal(0x3c00, C.mp_f32_to_f16(1 + 2 ^ -11)) -- a tie, to even
    assert.equal(0x3c02, C.mp_f32_to_f16(1 + 3 * 2 ^ -11))
    assert.equal(0x0000, C.mp_f32_to_f16(2 ^ -25))
    assert.equal(0x0001, C.mp_f32_to_f16(1.5 * 2 ^ -25))
    assert.equal(0x7e00, C.mp_f32_to_f16(0 / 0) % 0x8000)
  end)
end)

describe("numerics", function()
  it("have names", function()
    for i, name in ipairs { "plain", "exact", "fast" } do
      assert.equal(name, ffi.string(C.mp_numerics_name(i - 1)))
      assert.equal(i - 1, C.mp_numerics_parse(name))
    end
    assert.equal(ffi.C.MP_EINVAL, C.mp_numerics_parse "slow")
    assert.is_true(C.mp_device_find "cpu" ~= nil and C.mp_device_find "tpu" == nil)
  end)
end)
