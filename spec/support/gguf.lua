--- spec/support/gguf.lua: writes GGUF files, right ones and (by `raw` parts) wrong ones, for specs and fuzz seeds.
---
---     local g = gguf.new { version = 3, alignment = 32 }
---     g:kv("general.architecture", "str", "llama")          -- u8 … f64, bool, str
---     g:kv("tokenizer.ggml.tokens", "arr", { "a", "b" }, "str")
---     g:tensor("token_embd.weight", { 64, 256 }, "F32")       -- zeros, or a string of bytes as the fourth argument
---     g:save(path)                                            -- or g:bytes()
local ffi = require "ffi"
local gguf = {}
gguf.__index = gguf

gguf.types = { u8 = 0, i8 = 1, u16 = 2, i16 = 3, u32 = 4, i32 = 5, f32 = 6, bool = 7, str = 8, arr = 9, u64 = 10, i64 = 11, f64 = 12 }
local ctypes = {
  u8 = "uint8_t", i8 = "int8_t", u16 = "uint16_t", i16 = "int16_t", u32 = "uint32_t", i32 = "int32_t", f32 = "float", u64 = "uint64_t",
  i64 = "int64_t", f64 = "double",
}
--- name = { id, values per block, bytes per block }
gguf.storage = {
  F32 = { 0, 1, 4 }, F16 = { 1, 1, 2 }, Q4_0 = { 2, 32, 18 }, Q4_1 = { 3, 32, 20 }, Q8_0 = { 8, 32, 34 }, Q4_K = { 12, 256, 144 },
  BF16 = { 30, 1, 2 },
}

--- A scalar or string as it stands in the file. type "raw": v is bytes already.
function gguf.value(type, v)
  if type == "raw" then
    return v
  elseif type == "str" then
    return gguf.value("u64", #v) .. v
  elseif type == "bool" then
    return v and "\1" or "\0"
  end
  local box = ffi.new(assert(ctypes[type], type) .. "[1]", v)
  return ffi.string(box, ffi.sizeof(box))
end

function gguf.new(options)
  options = options or {}
  return setmetatable({ version = options.version or 3, alignment = options.alignment or 32, kvs = {}, tensors = {} }, gguf)
end

--- type "raw": value is everything behind the key. For arrays elem names the elements' type.
function gguf:kv(key, type, value, elem)
  local bytes
  if type == "raw" then
    bytes = value
  elseif type == "arr" then
    local parts = { gguf.value("u32", gguf.types.arr), gguf.value("u32", gguf.types[elem]), gguf.value("u64", #value) }
    for _, v in ipairs(value) do
      parts[#parts + 1] = gguf.value(elem, v)
    end
    bytes = table.concat(parts)
  else
    bytes = gguf.value("u32", gguf.types[type]) .. gguf.value(type, value)
  end
  for _, kv in ipairs(self.kvs) do
    if kv.key == key and not self.allow_twice then
      kv.bytes = bytes
      return self
    end
  end
  table.insert(self.kvs, { key = key, bytes = bytes })
  return self
end

--- A whole entry, key included, as bytes.
function gguf:raw_kv(bytes)
  table.insert(self.kvs, { raw = bytes })
  return self
end

--- Removes a key again.
function gguf:without(key)
  for i = #self.kvs, 1, -1 do
    if self.kvs[i].key == key then
      table.remove(self.kvs, i)
    end
  end
  return self
end

--- storage: a name of gguf.storage. `as` overrides what stands in the file: type, offset, n_dims, ne, name (bytes, length included).
function gguf:tensor(name, ne, storage, data, as)
  local t = assert(gguf.storage[storage], storage)
  local rows = 1
  for i = 2, #ne do
    rows = rows * ne[i]
  end
  local bytes = ne[1] / t[2] * t[3] * rows
  table.insert(self.tensors, { name = name, ne = ne, type = t[1], bytes = bytes, data = data or ("\0"):rep(bytes), as = as or {} })
  return self
end

function gguf:bytes()
  local out = {
    self.magic or "GGUF", gguf.value("u32", self.version), gguf.value("u64", self.n_tensors or #self.tensors),
    gguf.value("u64", self.n_kv or #self.kvs),
  }
  local function put(type, v)
    out[#out + 1] = gguf.value(type, v)
  end
  for _, kv in ipairs(self.kvs) do
    put("raw", kv.raw or gguf.value("str", kv.key) .. kv.bytes)
  end
  local offset, data = 0, {}
  for _, t in ipairs(self.tensors) do
    put("raw", t.as.name or gguf.value("str", t.name))
    put("u32", t.as.n_dims or #t.ne)
    for _, n in ipairs(t.as.ne or t.ne) do
      put("u64", n)
    end
    put("u32", t.as.type or t.type)
    put("u64", t.as.offset or offset)
    local padded = math.ceil(#t.data / self.alignment) * self.alignment
    data[#data + 1] = t.data .. ("\0"):rep(padded - #t.data)
    offset = offset + padded
  end
  local head = table.concat(out)
  if #self.tensors > 0 then
    head = head .. ("\0"):rep(-#head % self.alignment)
  end
  return head .. table.concat(data)
end

function gguf:save(path)
  local f = assert(io.open(path, "wb"))
  f:write(self:bytes())
  f:close()
  return path
end

--- The character that stands for byte b in a byte-level vocabulary.
function gguf.byte_char(b)
  local c
  if (b >= 0x21 and b <= 0x7e) or (b >= 0xa1 and b <= 0xac) or b >= 0xae then
    c = b
  elseif b <= 0x20 then
    c = 0x100 + b
  else
    c = b == 0xad and 0x143 or 0x121 + b - 0x7f
  end
  return c < 0x80 and string.char(c) or string.char(0xc0 + math.floor(c / 64), 0x80 + c % 64)
end

--- The keys of a small vocabulary: all bytes, then merges { "a b", … } with their results, then `control` and `user` texts.
function gguf:vocabulary(options)
  local tokens, types = {}, {}
  local function add(text, kind)
    tokens[#tokens + 1], types[#types + 1] = text, kind
  end
  for b = 0, 255 do
    add(gguf.byte_char(b), 1)
  end
  for _, merge in ipairs(options.merges or {}) do
    add((merge:gsub("^(.[^ ]*) ", "%1")), 1)
  end
  for _, text in ipairs(options.normal or {}) do
    add(text, 1)
  end
  for _, text in ipairs(options.control or {}) do
    add(text, 3)
  end
  for _, text in ipairs(options.user or {}) do
    add(text, 4)
  end
  self:kv("tokenizer.ggml.model", "str", "gpt2")
  self:kv("tokenizer.ggml.pre", "str", options.pre or "smollm")
  self:kv("tokenizer.ggml.tokens", "arr", tokens, "str")
  self:kv("tokenizer.ggml.token_type", "arr", types, "i32")
  self:kv("tokenizer.ggml.merges", "arr", options.merges or {}, "str")
  return self
end

--- A whole llama model, as small as they come: options for the vocabulary, and layers, width, heads, kv_heads, ff, storage.
--- Weights come from a fixed sequence: small, and never all alike.
function gguf.llama(options)
  local defaults = { layers = 1, width = 32, heads = 2, kv_heads = 1, ff = 64, storage = "F32", context = 64 }
  local o = setmetatable(options or {}, { __index = defaults })
  local g = gguf.new(o)
  g:kv("general.architecture", "str", "llama"):kv("general.name", "str", "tiny"):kv("llama.context_length", "u32", o.context)
  g:kv("llama.embedding_length", "u32", o.width):kv("llama.block_count", "u32", o.layers):kv("llama.feed_forward_length", "u32", o.ff)
  g:kv("llama.attention.head_count", "u32", o.heads):kv("llama.attention.head_count_kv", "u32", o.kv_heads)
  g:kv("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5):kv("llama.rope.freq_base", "f32", 10000)
  g:vocabulary { pre = o.pre, merges = o.merges or { "a b", "ab c", "Ġ a" }, control = o.control or { "<s>", "</s>" }, user = o.user }
  local vocab = 256 + #(o.merges or { 1, 2, 3 }) + #(o.control or { 1, 2 }) + #(o.user or {})
  g:kv("llama.vocab_size", "u32", vocab):kv("tokenizer.ggml.eos_token_id", "u32", vocab - 1)
  local state = 1
  local function floats(n, around)
    local v = ffi.new("float[?]", n)
    for i = 0, n - 1 do
      state = (state * 1103515245 + 12345) % 2 ^ 31
      v[i] = around + (state / 2 ^ 31 - 0.5) / 4
    end
    return ffi.string(v, 4 * n)
  end
  local function add(name, ne)
    local data = (#ne == 1 or o.storage == "F32") and floats(ne[1] * (ne[2] or 1), #ne == 1 and 1 or 0) or nil
    g:tensor(name, ne, #ne == 1 and "F32" or o.storage, data)
  end
  local kv_width = o.width / o.heads * o.kv_heads
  add("token_embd.weight", { o.width, vocab })
  for i = 0, o.layers - 1 do
    for _, t in ipairs {
      { "attn_norm", o.width }, { "attn_q", o.width, o.width }, { "attn_k", o.width, kv_width }, { "attn_v", o.width, kv_width },
      { "attn_output", o.width, o.width }, { "ffn_norm", o.width }, { "ffn_gate", o.width, o.ff }, { "ffn_up", o.width, o.ff },
      { "ffn_down", o.ff, o.width },
    } do
      add(("blk.%d.%s.weight"):format(i, t[1]), { t[2], t[3] })
    end
  end
  add("output_norm.weight", { o.width })
  return g
end

return gguf
