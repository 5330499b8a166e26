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
