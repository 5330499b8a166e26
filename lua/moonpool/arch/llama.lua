--- Llama 1/2/3, Mistral, SmolLM: pre-norm transformer, rotary positions on adjacent pairs, grouped queries, SwiGLU.
--- Source: Touvron et al., "LLaMA", 2023. The GGUF converter has permuted q and k so that the pairs are adjacent.

--- Scaling of the rotary frequencies as the metadata declares it; Llama 3's own is baked into the tensor rope_freqs instead.
---@param md moonpool.Metadata
---@return moonpool.RopeScaling
local function rope_scaling(md)
  local kind = md:str("rope.scaling.type", "none")
  if kind ~= "none" and kind ~= "linear" and kind ~= "yarn" then
    md:unsupported("rope scaling '%s' is not built yet (llama.rope.scaling.type)", kind)
  end
  local old = md:f32("rope.scale_linear", 1, 1e6, 1) -- from before there were types
  return {
    type = kind == "none" and old ~= 1 and "linear" or kind,
    factor = kind == "none" and old or md:f32("rope.scaling.factor", 1, 1e6),
    original = md:u32("rope.scaling.original_context_length", 1, 16777216, md:u32("context_length", 1, 16777216)),
    attn_factor = md:f32("rope.scaling.attn_factor", 1e-3, 1e3, 1), ext_factor = md:f32("rope.scaling.yarn_ext_factor", 0, 1, 1),
    beta_fast = md:f32("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32), beta_slow = md:f32("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1),
  }
end

---@type moonpool.Architecture
return {
  name = "llama",
  match = { "llama" },
  ignore = { "^rope_freqs%.weight$", "%.attn_rot_embd%.weight$", "%.rotary_emb%.inv_freq$" },

  --- Typed, ranged, and checked against the tensors' shapes as they are used.
  ---@param md moonpool.Metadata
  hparams = function(md)
    if md:u32("expert_count", 0, 65536, 0) > 0 then
      md:unsupported "mixtures of experts are not built yet (llama.expert_count)"
    end
    local embd = md:u32("embedding_length", 1, 65536)
    local heads = md:u32("attention.head_count", 1, 1024)
    local kv_heads = md:u32("attention.head_count_kv", 1, heads, heads)
    if heads % kv_heads ~= 0 then
      md:bad("llama.attention.head_count (%d) is no multiple of head_count_kv (%d)", heads, kv_heads)
    end
    if embd % heads ~= 0 and not md.file.u32("llama.attention.key_length", 1, 512) then
      md:bad("llama.embedding_length (%d) is no multiple of attention.head_count (%d)", embd, heads)
    end
    local head_dim = md:u32("attention.key_length", 1, 512, math.floor(embd / heads))
    if md:u32("attention.value_length", 1, 512, head_dim) ~= head_dim then
      md:unsupported "keys and values of different lengths are not built yet (llama.attention.value_length)"
    end
    local rope_dims = md:u32("rope.dimension_count", 2, head_dim, head_dim)
    if rope_dims % 2 ~= 0 then
      md:bad("llama.rope.dimension_count (%d) must be even", rope_dims)
    end
    local tokens, vocab = md:count "tokenizer.ggml.tokens", md:u32("vocab_size", 1, 4194304, 0)
    if tokens and vocab ~= 0 and tokens ~= vocab then
      md:bad("llama.vocab_size (%d) is not the number of tokenizer.ggml.tokens (%d)", vocab, tokens)
    end
    return {
      embd = embd, heads = heads, kv_heads = kv_heads, head_dim = head_dim, rope_dims = rope_dims,
      layers = md:u32("block_count", 1, 1024),
      ff = md:u32("feed_forward_length", 1, 1048576),
      eps = md:f32("attention.layer_norm_rms_epsilon", 0, 1),
      rope_base = md:f32("rope.freq_base", 1, 1e12, 10000),
      rope_scaling = rope_scaling(md),
      scale = md:f32("attention.scale", 1e-6, 1e6, head_dim ^ -0.5),
      window = md:u32("attention.sliding_window", 0, 2147483647, 0),
      vocab = tokens or (vocab ~= 0 and vocab) or nil,
    }
  end,

  ---@param g moonpool.Plan   emits operations; shapes are checked as they are emitted
  build = function(g, hp)
    local kv = g:kv { layers = hp.layers, heads = hp.kv_heads, dim = hp.head_dim, window = hp.window }
    local rope = g:rope_table {
      style = "norm", dims = hp.rope_dims, base = hp.rope_base, scaling = hp.rope_scaling, factors = g:maybe "rope_freqs",
    }
    local q_cols, kv_cols = hp.heads * hp.head_dim, hp.kv_heads * hp.head_dim
    local embd = g:weight "token_embd"
    local x = g:embed(embd, hp.embd, hp.vocab)
    for i = 0, hp.layers - 1 do
      local w = g:block(i)
      local h = g:rms_norm(x, w "attn_norm", hp.eps)
      local q, k, v = g:qkv(h, w, q_cols, kv_cols)
      local a = g:attention(g:rope(q, rope, hp.heads), g:rope(k, rope, hp.kv_heads), v,
        { kv = kv, layer = i, heads = hp.heads, scale = hp.scale, window = hp.window })
      x = g:add(x, g:linear(a, w "attn_output", hp.embd, w.bias "attn_output"))
      h = g:rms_norm(x, w "ffn_norm", hp.eps)
      local gate = g:linear(h, w "ffn_gate", hp.ff, w.bias "ffn_gate")
      local up = g:linear(h, w "ffn_up", hp.ff, w.bias "ffn_up")
      x = g:add(x, g:linear(g:glu(gate, up, "silu"), w "ffn_down", hp.embd, w.bias "ffn_down"))
    end
    local head = g:maybe "output" or embd
    g:output("logits", g:linear(g:rms_norm(g:gather(x), g:weight "output_norm", hp.eps), head, embd.rows))
  end,
}
