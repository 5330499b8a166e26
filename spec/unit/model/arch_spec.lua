--- core/model/arch.c, lua/moonpool/plan.lua, lua/moonpool/arch: from a file's metadata to a checked plan.
local C, ffi = require "spec.support.ffi"("core/model/gguf.h", "core/model/arch.h", "core/base/mem.h")

local models = os.getenv "MOONPOOL_MODELS" or "models"
local path = models .. "/smollm2-135m-instruct.gguf"

local function build(context)
  local err, g, plan = ffi.new "struct mp_err", ffi.new "struct mp_gguf *[1]", ffi.new "struct mp_plan *[1]"
  assert.equal(0, C.mp_gguf_open(g, path, err), ffi.string(err.message))
  local opts = ffi.new("struct mp_arch_opts", { context = context })
  local rc = C.mp_arch_build(g[0], opts, plan, err)
  C.mp_gguf_free(g[0])
  return rc, plan[0], ffi.string(err.message)
end

describe("the plan of the default model", function()
  local file = io.open(path)
  if not file then
    pending "needs the default model (./dev fetch)"
    return
  end
  file:close()

  it("has its layers, its heads and one tied embedding", function()
    local rc, plan, message = build(0)
    assert.equal(0, rc, message)
    assert.equal(49152, plan.n_vocab)
    assert.equal(8192, plan.n_context)
    assert.equal(1, plan.n_kvs)
    assert.equal(30, plan.kvs[0].layers)
    assert.equal(3, plan.kvs[0].heads)
    assert.equal(64, plan.kvs[0].dim_k)
    assert.equal(272, plan.n_weights) -- 30 x 9, the embedding that is the head too, the last norm
    assert.equal(ffi.C.MP_W_BOTH, plan.weights[0].role)
    assert.equal(1, plan.ropes[0].freq[0])
    assert.is_true(math.abs(plan.ropes[0].freq[31] - 100000 ^ (-62 / 64)) < 1e-12)
    C.mp_plan_free(plan)
  end)

  it("takes a shorter context and refuses a longer one", function()
    local rc, plan = build(512)
    assert.equal(0, rc)
    assert.equal(512, plan.n_context)
    C.mp_plan_free(plan)
    local code, _, message = build(9000)
    assert.equal(ffi.C.MP_EINVAL, code)
    assert.matches("a context of 9000 was asked for, but the model was made for 8192", message, 1, true)
  end)
end)

it("names the architectures that are built in", function()
  local b = ffi.new "struct mp_buf"
  C.mp_arch_names(b)
  assert.equal("llama", ffi.string(b.data, b.len))
  C.mp_buf_free(b)
end)

describe("a model file at odds with itself", function()
  local gguf = require "spec.support.gguf"

  --- Builds the plan of a GGUF made in memory: plan | nil, message without the path, code.
  local function plan_of(g, context)
    local file = g:save(os.tmpname())
    local err, opened, plan = ffi.new "struct mp_err", ffi.new "struct mp_gguf *[1]", ffi.new "struct mp_plan *[1]"
    assert(C.mp_gguf_open(opened, file, err) == 0, ffi.string(err.message))
    local rc = C.mp_arch_build(opened[0], ffi.new("struct mp_arch_opts", { context = context or 0 }), plan, err)
    C.mp_gguf_free(opened[0])
    os.remove(file)
    if rc ~= 0 then
      return nil, (ffi.string(err.message):gsub("^" .. file:gsub("%p", "%%%0") .. ": ", ""):gsub(file:gsub("%p", "%%%0"), "FILE")), rc
    end
    return ffi.gc(plan[0], C.mp_plan_free)
  end

  local function without_tensor(g, name)
    for i = #g.tensors, 1, -1 do
      if g.tensors[i].name == name then
        return table.remove(g.tensors, i)
      end
    end
  end

  it("is read when it is right: grouped queries, an own head, biases, fused projections", function()
    local plan = assert(plan_of(gguf.llama { layers = 2 }))
    assert.equal(2, plan.kvs[0].layers)
    assert.equal(1, plan.kvs[0].heads)
    assert.equal(16, plan.kvs[0].dim_k)
    local g = gguf.llama {}
    for _, name in ipairs { "q", "k", "v" } do
      g:tensor("blk.0.attn_" .. name .. ".bias", { name == "q" and 32 or 16 }, "F32")
    end
    local with_biases = assert(plan_of(g))
    assert.equal(assert(plan_of(gguf.llama {})).n_weights + 3, with_biases.n_weights)
    g = gguf.llama {}
    for _, name in ipairs { "q", "k", "v" } do
      without_tensor(g, "blk.0.attn_" .. name .. ".weight")
    end
    g:tensor("blk.0.attn_qkv.weight", { 32, 64 }, "F32")
    assert(plan_of(g))
    g = gguf.llama {}
    local tied = assert(plan_of(g))
    if without_tensor(g, "output.weight") then
      assert.equal(tied.n_weights - 1, assert(plan_of(g)).n_weights)
    else
      g:tensor("output.weight", { 32, tied.n_vocab }, "F32")
      assert.equal(tied.n_weights + 1, assert(plan_of(g)).n_weights)
    end
  end)

  it("is refused by name", function()
    local cases = {
      { "llama.attention.head_count", 0, "head_count" },
      { "llama.attention.head_count", 5, "llama.embedding_length (32) is no multiple of attention.head_count (5)" },
      { "llama.attention.head_count_kv", 0, "head_count_kv" },
      { "llama.attention.head_count_kv", 3, "head_count_kv" },
      { "llama.block_count", 0, "llama.block_count" },
      { "llama.block_count", 4294967295, "llama.block_count" },
      { "llama.block_count", 1024, "the tensor 'blk.1.attn_norm.weight' is missing" },
      { "llama.embedding_length", 0, "llama.embedding_length" },
      { "llama.embedding_length", 64, "the tensor 'token_embd.weight' is [32 x 261]" },
      { "llama.feed_forward_length", 65, "the tensor 'blk.0.ffn_gate.weight' is [32 x 64], but the metadata asks for [32 x 65]" },
      { "llama.feed_forward_length", 4294967295, "llama.feed_forward_length" },
      { "llama.context_length", 0, "llama.context_length" },
      { "llama.vocab_size", 262, "llama.vocab_size (262) is not the number of tokenizer.ggml.tokens (261)" },
      { "llama.rope.dimension_count", 15, "llama.rope.dimension_count (15) must be even" },
      { "llama.rope.dimension_count", 18, "llama.rope.dimension_count" },
      { "llama.attention.key_length", 8, "the tensor 'blk.0.attn_q.weight' is [32 x 32], but the metadata asks for [32 x 16]" },
      { "llama.attention.value_length", 8, "llama.attention.value_length" },
      { "llama.expert_count", 8, "mixtures of experts are not built yet" },
    }
    for _, case in ipairs(cases) do
      local plan, message, code = plan_of(gguf.llama({}):kv(case[1], "u32", case[2]))
      assert.is_nil(plan, case[1])
      assert.matches(case[3], message, 1, true)
      assert.is_true(code == ffi.C.MP_EFORMAT or code == ffi.C.MP_EUNSUPPORTED, message)
    end
    for _, key in ipairs { "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
      "attention.layer_norm_rms_epsilon" } do
      local _, message, code = plan_of(gguf.llama({}):without("llama." .. key))
      assert.equal("the metadata key 'llama." .. key .. "' is missing", message)
      assert.equal(ffi.C.MP_EFORMAT, code)
    end
    for _, eps in ipairs { -1, 2, 0 / 0, 1 / 0 } do
      local _, message = plan_of(gguf.llama({}):kv("llama.attention.layer_norm_rms_epsilon", "f32", eps))
      assert.matches("llama.attention.layer_norm_rms_epsilon", message, 1, true)
    end
    local _, message, code = plan_of(gguf.llama({}):kv("general.architecture", "str", "mamba"))
    assert.equal("the architecture 'mamba' is not built; these are: llama", message)
    assert.equal(ffi.C.MP_EUNSUPPORTED, code)
    _, message = plan_of(gguf.llama({}):without "general.architecture")
    assert.matches("general.architecture", message, 1, true)
    _, message = plan_of(gguf.llama({}):kv("llama.attention.head_count", "str", "two"))
    assert.matches("llama.attention.head_count", message, 1, true)
    _, message, code = plan_of(gguf.llama({}):kv("llama.rope.scaling.type", "str", "longrope"))
    assert.equal("rope scaling 'longrope' is not built yet (llama.rope.scaling.type)", message)
    assert.equal(ffi.C.MP_EUNSUPPORTED, code)
  end)

  it("is refused for a tensor that is missing, misshapen, or of no known use", function()
    for _, name in ipairs { "token_embd", "output_norm", "blk.0.attn_norm", "blk.0.attn_q", "blk.0.attn_output", "blk.0.ffn_down" } do
      local g = gguf.llama {}
      assert(without_tensor(g, name .. ".weight"))
      local _, message, code = plan_of(g)
      assert.equal("the tensor '" .. name .. ".weight' is missing", message)
      assert.equal(ffi.C.MP_EFORMAT, code)
    end
    local g = gguf.llama {}
    without_tensor(g, "blk.0.attn_k.weight")
    g:tensor("blk.0.attn_k.weight", { 32, 32 }, "F32")
    local _, message = plan_of(g)
    assert.equal("the tensor 'blk.0.attn_k.weight' is [32 x 32], but the metadata asks for [32 x 16]", message)
    local code
    _, message, code = plan_of(gguf.llama({}):tensor("blk.0.attn_q_norm.weight", { 16 }, "F32"))
    assert.equal("the tensor 'blk.0.attn_q_norm.weight' is none that the architecture 'llama' uses: a variant that is not built", message)
    assert.equal(ffi.C.MP_EUNSUPPORTED, code)
    _, message = plan_of(gguf.llama({}):tensor("rope_freqs.weight", { 7 }, "F32"))
    assert.equal("the tensor 'rope_freqs.weight' is [7], but the metadata asks for [8]", message)
    _, message = plan_of(gguf.llama({}):tensor("rope_freqs.weight", { 8 }, "F32"))
    assert.matches("the tensor 'rope_freqs.weight' holds a value that cannot be", message, 1, true)
  end)

  it("has its rotary frequencies scaled as it says", function()
    local function freq(g)
      local plan = assert(plan_of(g))
      local out = {}
      for i = 0, plan.ropes[0].dims / 2 - 1 do
        out[i] = plan.ropes[0].freq[i]
      end
      return out, plan.ropes[0].attn_factor
    end
    local plain = freq(gguf.llama {})
    assert.equal(1, plain[0])
    local factors = ffi.new("float[8]", { 1, 1, 1, 2, 2, 4, 8, 8 })
    local by_tensor = freq(gguf.llama({}):tensor("rope_freqs.weight", { 8 }, "F32", ffi.string(factors, 32)))
    local linear = freq(gguf.llama({}):kv("llama.rope.scaling.type", "str", "linear"):kv("llama.rope.scaling.factor", "f32", 4))
    for i = 0, 7 do
      assert.is_true(math.abs(plain[i] - 10000 ^ (-2 * i / 16)) < 1e-7)
      assert.is_true(math.abs(by_tensor[i] - plain[i] / factors[i]) < 1e-7)
      assert.is_true(math.abs(linear[i] - plain[i] / 4) < 1e-7)
    end
    local yarn, factor = freq(gguf.llama({}):kv("llama.rope.scaling.type", "str", "yarn"):kv("llama.rope.scaling.factor", "f32", 4)
      :kv("llama.rope.scaling.original_context_length", "u32", 4096))
    assert.equal(plain[0], yarn[0]) -- fast: kept
    assert.is_true(math.abs(yarn[7] - plain[7] / 4) < 1e-7) -- slow: interpolated
    assert.is_true(yarn[3] < plain[3] and yarn[3] > plain[3] / 4) -- between
    assert.is_true(math.abs(factor - (1 + 0.1 * math.log(4))) < 1e-6)
  end)

  it("may see a window of the past", function()
    local plan = assert(plan_of(gguf.llama({}):kv("llama.attention.sliding_window", "u32", 16)))
    assert.equal(16, plan.kvs[0].window)
  end)
end)
