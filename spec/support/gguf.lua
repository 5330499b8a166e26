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

--- Removes a key again.
function gguf:without(key)
  for i = #self.kvs, 1, -1 do
    if self.kvs[i].key == key then
      table.remove(self.kvs, i)
    end
  end
  return self
end

--- storage: a name of gguf.storage. Overrides in `as`: type, offset, n_dims, ne (numbers as they shall stand in the file).
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
    "GGUF", gguf.value("u32", self.version), gguf.value("u64", self.n_tensors or #self.tensors), gguf.value("u64", self.n_kv or #self.kvs),
  }
  local function put(type, v)
    out[#out + 1] = gguf.value(type, v)
  end
  for _, kv in ipairs(self.kvs) do
    put("str", kv.key)
    put("raw", kv.bytes)
  end
  local offset, data = 0, {}
  for _, t in ipairs(self.tensors) do
    put("str", t.name)
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

return gguf
