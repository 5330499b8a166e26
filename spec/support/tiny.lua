--- spec/support/tiny.lua: a llama of 64 columns and two layers with random weights and a tokenizer of bytes, as a GGUF file of some
--- 300 KB: a real model that loads and answers at once, nonsense as its answers are. `tiny.write(path, { seed = 1, context = 256, endless = false })`;
--- endless: nothing in its vocabulary ends a text.
local bit = require "bit"
local gguf = require "spec.support.gguf"
local ffi = require "ffi"
local M = {}

M.n_vocab = 259

function M.write(path, t)
  t = t or {}
  local g, state, n_vocab = gguf.new(), t.seed or 1, t.endless and 256 or M.n_vocab
  local function kv(key, type, value, elem)
    g:kv(key, type, value, elem)
  end
  kv("general.architecture", "str", t.arch or "llama")
  for key, value in pairs {
    block_count = 2, embedding_length = 64, feed_forward_length = 96, ["attention.head_count"] = 4,
    ["attention.head_count_kv"] = 2, context_length = t.context or 256, ["rope.dimension_count"] = 16, vocab_size = n_vocab,
  } do
    kv("llama." .. key, "u32", value)
  end
  kv("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5)
  kv("llama.rope.freq_base", "f32", 10000)
  g:vocabulary { control = not t.endless and { "<|endoftext|>", "<|im_start|>", "<|im_end|>" } or {} }
  if not t.endless then
    kv("tokenizer.ggml.bos_token_id", "u32", 257)
    kv("tokenizer.ggml.eos_token_id", "u32", 258)
  end
  local function tensor(name, shape, scale)
    local n = shape[1] * (shape[2] or 1)
    local data = ffi.new("float[?]", n)
    for i = 0, n - 1 do
      state = bit.tobit(state * 69069 + 12345) -- LCG
      data[i] = scale and (bit.rshift(state, 8) / 2 ^ 24 - 0.5) * scale or 1
    end
    g:tensor(name, shape, "F32", ffi.string(data, n * 4))
  end
  tensor("token_embd.weight", { 64, n_vocab }, 0.3)
  tensor("output_norm.weight", { 64 })
  for i = 0, 1 do
    local b = "blk." .. i .. "."
    tensor(b .. "attn_norm.weight", { 64 })
    tensor(b .. "attn_q.weight", { 64, 64 }, 1)
    tensor(b .. "attn_k.weight", { 64, 32 }, 1)
    tensor(b .. "attn_v.weight", { 64, 32 }, 1)
    tensor(b .. "attn_output.weight", { 64, 64 }, 1)
    tensor(b .. "ffn_norm.weight", { 64 })
    tensor(b .. "ffn_gate.weight", { 64, 96 }, 1)
    tensor(b .. "ffn_up.weight", { 64, 96 }, 1)
    tensor(b .. "ffn_down.weight", { 96, 64 }, 1)
  end
  g:save(path)
end

return M
