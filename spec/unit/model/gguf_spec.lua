--- core/model/gguf.c and `moonpool inspect`: right files are read whole, every wrong one is refused with a message that names what is
--- wrong, none crashes or hangs.
local C, ffi = require "spec.support.ffi"("core/model/gguf.h", "core/model/tokenizer.h", "core/base/sha256.h", "core/base/mem.h")
local gguf = require "spec.support.gguf"
local json = require "spec.support.json"

local build = os.getenv "MOONPOOL_BUILD" or "build/release"
local u32 = function(v) return gguf.value("u32", v) end
local u64 = function(v) return gguf.value("u64", v) end
local str = function(v) return gguf.value("str", v) end

local path = os.tmpname()
local function write(bytes)
  local f = assert(io.open(path, "wb"))
  f:write(bytes)
  f:close()
end

--- The opened file; or nil, code, message without the path.
local function open(bytes)
  write(bytes)
  local g, err = ffi.new "struct mp_gguf *[1]", ffi.new "struct mp_err"
  local rc = C.mp_gguf_open(g, path, err)
  if rc == 0 then
    return ffi.gc(g[0], C.mp_gguf_free)
  end
  local message = ffi.string(err.message)
  assert.equal(path .. ": ", message:sub(1, #path + 2))
  return nil, rc, message:sub(#path + 3)
end

--- As open, and the vocabulary too.
local function open_all(bytes)
  local g, rc, message = open(bytes)
  if not g then
    return nil, rc, message
  end
  local t, err = ffi.new "struct mp_tok *[1]", ffi.new "struct mp_err"
  rc = C.mp_tok_new(t, g, err)
  C.mp_tok_free(t[0])
  return rc == 0 or nil, rc, ffi.string(err.message):sub(#path + 3)
end

--- Exit code, what it printed on stderr, and on stdout. Killed after a minute, which gives 124.
local function moonpool(...)
  local command = { "timeout 60 " .. build .. "/moonpool" }
  for _, word in ipairs { ... } do
    command[#command + 1] = "'" .. word:gsub("'", "'\\''") .. "'"
  end
  local errors = os.tmpname()
  local pipe = assert(io.popen(table.concat(command, " ") .. " 2>" .. errors .. "; echo \"exit $?\""))
  local out, code = pipe:read("*a"):match "^(.*)exit (%d+)\n$"
  pipe:close()
  local f = assert(io.open(errors))
  local said = f:read "*a"
  f:close()
  os.remove(errors)
  return tonumber(code), said, out
end

teardown(function()
  os.remove(path)
end)

--- A model with one more tensor, whose place in the file `as` may falsify.
local function with_tensor(ne, storage, as, data)
  return gguf.llama():tensor("extra", ne, storage, data or "", as):bytes()
end
--- Raw metadata entry behind a good model's.
local function with_entry(bytes)
  return gguf.llama():raw_kv(bytes):bytes()
end
local function with(change)
  local g = gguf.llama()
  change(g)
  return g:bytes()
end
local function with_key(...)
  return gguf.llama():kv(...):bytes()
end
local good = gguf.llama():bytes()
local huge = 2 ^ 63 -- exact as a double

--- name, bytes, what the message must hold
local broken = {
  { "an empty file", "", "is no GGUF file: it has 0 bytes" },
  { "three bytes", "GGU", "is no GGUF file: it has 3 bytes" },
  { "another magic", "GGML" .. good:sub(5), "is no GGUF file: it begins with the bytes 47 47 4d 4c" },
  { "nothing but the magic", "GGUF", "needs 4 bytes at byte 4, beyond the end of the file %(4 bytes%)" },
  { "version 0", "GGUF" .. u32(0) .. good:sub(9), "is GGUF version 0; versions 2 and 3 are supported" },
  { "version 1", "GGUF" .. u32(1) .. good:sub(9), "is GGUF version 1; versions 2 and 3 are supported" },
  { "version 4", "GGUF" .. u32(4) .. good:sub(9), "is GGUF version 4; versions 2 and 3 are supported" },
  { "swapped bytes", "GGUF\0\0\0\3" .. good:sub(9), "is a big%-endian GGUF file; they are not supported" },
  { "an end within the counts", good:sub(1, 20), "needs 8 bytes at byte 16, beyond the end of the file %(20 bytes%)" },
  { "keys without end", with(function(g) g.n_kv = huge end),
    "claims 9223372036854775808 keys, more than its %d+ bytes can hold" },
  { "more keys than bytes", with(function(g) g.n_kv = 1e6 end),
    "claims 1000000 keys, more than its %d+ bytes can hold" },
  { "tensors without end", with(function(g) g.n_tensors = huge end),
    "claims 9223372036854775808 tensors, more than its %d+ bytes can hold" },
  { "more tensors than bytes", with(function(g) g.n_tensors = 1e6 end),
    "claims 1000000 tensors, more than its %d+ bytes can hold" },
  { "one key too many", with(function(g) g.n_kv = #g.kvs + 1 end), ": has a name of " },
  { "one tensor too many", with(function(g) g.n_tensors = #g.tensors + 1 end), "^tensor 11: has an empty name" },
  { "a million keys", "GGUF" .. u32(3) .. u64(0) .. u64(65537) .. ("\0"):rep(2 ^ 20),
    "has 65537 keys and 0 tensors; 65536 and 65536 at most" },
  { "a million tensors", "GGUF" .. u32(3) .. u64(65537) .. u64(0) .. ("\0"):rep(2 ^ 22),
    "has 0 keys and 65537 tensors; 65536 and 65536 at most" },
  { "a key without a name", with_entry(u64(0) .. u32(4) .. u32(1)), "^key 17: has an empty name" },
  { "a key as long as memory", with_entry(u64(huge) .. "abc"),
    "^key 17: has a name of 9223372036854775808 bytes; 1024 at most" },
  { "a key of 1025 bytes", with_entry(str(("k"):rep(1025)) .. u32(4) .. u32(1)),
    "^key 17: has a name of 1025 bytes; 1024 at most" },
  { "a key that is not UTF-8", with_entry(str "a\255b" .. u32(4) .. u32(1)), "^key 17: has a name that is not UTF%-8" },
  { "a key with an escape", with_entry(str "a\27[2Jb" .. u32(4) .. u32(1)),
    "^key 17: has a control character in its name" },
  { "a key with a NUL", with_entry(str "general.name\0x" .. u32(4) .. u32(1)),
    "^key 17: has a control character in its name" },
  { "a key twice", with_entry(str "general.name" .. u32(4) .. u32(1)), "^key 'general.name': stands twice" },
  { "an unknown type of value", with_entry(str "x" .. u32(13) .. u32(1)), "^key 'x': has the unknown type 13" },
  { "the last type of value", with_entry(str "x" .. u32(2 ^ 32 - 1) .. u32(1)),
    "^key 'x': has the unknown type 4294967295" },
  { "a string beyond the end", with_entry(str "x" .. u32(8) .. u64(1e9) .. "abc"),
    "^key 'x': needs 1000000000 bytes at byte %d+, beyond the end" },
  { "a string as long as memory", with_entry(str "x" .. u32(8) .. ("\255"):rep(8)),
    "^key 'x': needs 18446744073709551615 bytes at byte" },
  { "an array of arrays", with_entry(str "x" .. u32(9) .. u32(9) .. u64(1)), "^key 'x': is an array of arrays" },
  { "an array of nothing known", with_entry(str "x" .. u32(9) .. u32(99) .. u64(1)),
    "^key 'x': is an array of the unknown type 99" },
  { "an array whose size overflows", with_entry(str "x" .. u32(9) .. u32(10) .. u64(2 ^ 61)),
    "^key 'x': is an array of 2305843009213693952 elements, whose size overflows" },
  { "an array beyond the end", with_entry(str "x" .. u32(9) .. u32(0) .. u64(2 ^ 40)),
    "^key 'x': needs 1099511627776 bytes at byte" },
  { "strings without end", with_entry(str "x" .. u32(9) .. u32(8) .. u64(2 ^ 62)),
    "^key 'x': is an array of 4611686018427387904 strings, more than the file can hold" },
  { "a string of an array beyond the end", with_entry(str "x" .. u32(9) .. u32(8) .. u64(1) .. u64(huge)),
    "^key 'x': needs 9223372036854775808 bytes at byte" },
  { "a bool that is 2", with_entry(str "x" .. u32(7) .. "\2"), "^key 'x': holds a bool that is 2" },
  { "an array with a bool that is 7", with_entry(str "x" .. u32(9) .. u32(7) .. u64(3) .. "\0\1\7"),
    "^key 'x': holds a bool that is 7" },
  { "alignment 0", with(function(g) g:kv("general.alignment", "u32", 0) end),
    "key 'general.alignment': 0 is not within 1..1048576" },
  { "alignment 3", with(function(g) g:kv("general.alignment", "u32", 48) end),
    "key 'general.alignment': 48 is not a power of two" },
  { "alignment 2 MiB", with(function(g) g:kv("general.alignment", "u32", 2 ^ 21) end),
    "key 'general.alignment': 2097152 is not within 1..1048576" },
  { "an alignment in words", with(function(g) g:kv("general.alignment", "str", "32") end),
    "key 'general.alignment': is of type str, not an integer" },
  { "another alignment than written", with(function(g) g:kv("general.alignment", "u32", 256) end),
    "^tensor '.-': its offset %d+ is not aligned to 256 bytes" },
  { "one part of several files", with(function(g) g:kv("split.count", "u16", 3) end),
    "is one part of a model split over 3 files; join them first %(split files are not supported%)" },
  { "a tensor without a name", with_tensor({ 32 }, "F32", { name = u64(0) }), "^tensor 11: has an empty name" },
  { "a tensor's name of 64 bytes", with_tensor({ 32 }, "F32", { name = str(("n"):rep(64)) }),
    "^tensor 11: has a name of 64 bytes; 63 at most" },
  { "a tensor's name as long as memory", with_tensor({ 32 }, "F32", { name = u64(huge) }),
    "^tensor 11: has a name of 9223372036854775808 bytes; 63 at most" },
  { "a tensor's name that is not UTF-8", with_tensor({ 32 }, "F32", { name = str "\237\160\128" }),
    "^tensor 11: has a name that is not UTF%-8" },
  { "a tensor's name with a newline", with_tensor({ 32 }, "F32", { name = str "a\nb" }),
    "^tensor 11: has a control character in its name" },
  { "a tensor twice", with(function(g) g:tensor("output_norm.weight", { 32 }, "F32") end),
    "^tensor 'output_norm.weight': stands twice" },
  { "no dimension", with_tensor({ 32 }, "F32", { n_dims = 0, ne = {} }),
    "^tensor 'extra': has 0 dimensions; 1 to 4 are possible" },
  { "five dimensions", with_tensor({ 1, 1, 1, 1, 1 }, "F32", { n_dims = 5 }),
    "^tensor 'extra': has 5 dimensions; 1 to 4 are possible" },
  { "dimensions without end", with_tensor({ 1 }, "F32", { n_dims = 2 ^ 32 - 1 }),
    "^tensor 'extra': has 4294967295 dimensions; 1 to 4 are possible" },
  { "a dimension of 0", with_tensor({ 32, 1 }, "F32", { ne = { 32, 0 } }), "^tensor 'extra': dimension 1 is 0" },
  { "advisory: bad ne, the product overflows 64 bits", with_tensor({ 1, 1 }, "F32", { ne = { 2 ^ 32, 2 ^ 32 } }),
    "^tensor 'extra': its dimensions overflow" },
  { "advisory: bad ne, rows overflow", with_tensor({ 1, 1, 1, 1 }, "F32", { ne = { 1, 2 ^ 40, 2 ^ 40, 1 } }),
    "^tensor 'extra': its dimensions overflow" },
  { "advisory: bad ne, minus one", with_tensor({ 1 }, "F32", { ne = { -1LL } }),
    "^tensor 'extra': its dimensions overflow" },
  { "advisory: size overflow in the header", with_tensor({ 1 }, "F32", { ne = { 2 ^ 62 } }),
    "^tensor 'extra': its size overflows" },
  { "a dead type", with_tensor({ 32 }, "F32", { type = 4 }), "^tensor 'extra': its type 4 is not supported" },
  { "a type that we cannot size", with_tensor({ 256 }, "F32", { type = 16 }),
    "^tensor 'extra': its type 16 is not supported" },
  { "the last type", with_tensor({ 32 }, "F32", { type = 2 ^ 32 - 1 }),
    "^tensor 'extra': its type 4294967295 is not supported" },
  { "half a block", with_tensor({ 32 }, "Q8_0", { ne = { 33 } }),
    "^tensor 'extra': rows of 33 values are no whole number of Q8_0 blocks of 32" },
  { "an odd offset", with_tensor({ 8 }, "F32", { offset = 4 }),
    "^tensor 'extra': its offset 4 is not aligned to 32 bytes" },
  { "an offset that overflows", with_tensor({ 8 }, "F32", { offset = -32LL }),
    "^tensor 'extra': its offset overflows" },
  { "an offset whose end overflows", with_tensor({ 2 ^ 20 }, "F32", { offset = -2 ^ 20 * 1LL }),
    "^tensor 'extra': its offset overflows" },
  { "advisory: a tensor beyond the end of the file", with_tensor({ 1024 }, "F32", {}),
    "^tensor 'extra': ends 4096 bytes beyond the end of the file" },
  { "a tensor far beyond the end", with_tensor({ 8 }, "F32", { offset = 2 ^ 40 }),
    "^tensor 'extra': ends %d+ bytes beyond the end of the file" },
  { "a file cut in its last tensor", good:sub(1, -65), "^tensor '.-': ends 64 bytes beyond the end of the file" },
  { "tensors on top of each other", with_tensor({ 8 }, "F32", { offset = 0 }, ("x"):rep(32)),
    "^tensor '.-': overlaps tensor '.-'" },
  { "advisory: wrong vocabulary length, types", with(function(g) g:kv("tokenizer.ggml.token_type", "arr", { 1 }, "i32") end),
    "'tokenizer.ggml.token_type': has 1 elements for 261 tokens" },
  { "advisory: wrong vocabulary length, scores", with(function(g) g:kv("tokenizer.ggml.scores", "arr", { 1 }, "f32") end),
    "'tokenizer.ggml.scores': has 1 elements for 261 tokens" },
  { "no tokens", with(function(g) g:without "tokenizer.ggml.tokens" end), "key 'tokenizer.ggml.tokens' is missing" },
  { "a stop token that is no token", with(function(g) g:kv("tokenizer.ggml.eos_token_id", "u32", 261) end),
    "'tokenizer.ggml.eos_token_id': 261 is not within 0..260" },
  { "merges of other tokens", with(function(g) g:kv("tokenizer.ggml.merges", "arr", { "q x" }, "str") end),
    "'tokenizer.ggml.merges': merge 0 names a result" },
}

--- Files that are right as files, and whose hyper-parameters, shapes or template do not fit: refused before anything is computed.
local unfit = {
  { "a width of 0", with_key("llama.embedding_length", "u32", 0),
    "key 'llama.embedding_length': 0 is not within 1..65536" },
  { "another width than the tensors'", with_key("llama.embedding_length", "u32", 64),
    "tensor 'token_embd.weight' is %[32 x 261%], but the metadata asks for %[64 x 261%]" },
  { "no heads", with_key("llama.attention.head_count", "u32", 0),
    "key 'llama.attention.head_count': 0 is not within 1..1024" },
  { "heads that do not divide the width", with_key("llama.attention.head_count", "u32", 3),
    "is no multiple of attention.head_count %(3%)" },
  { "other heads than the tensors'", with_key("llama.attention.head_count_kv", "u32", 2),
    "'blk.0.attn_k.weight' is %[32 x 16%]" },
  { "more layers than there are", with_key("llama.block_count", "u32", 2),
    "tensor 'blk.1.attn_norm.weight' is missing" },
  { "four billion layers", with_key("llama.block_count", "u32", 4e9),
    "key 'llama.block_count': 4000000000 is not within 1..1024" },
  { "another inner width", with_key("llama.feed_forward_length", "u32", 65), "'blk.0.ffn_gate.weight' is %[32 x 64%]" },
  { "no context", with_key("llama.context_length", "u32", 0), "key 'llama.context_length': 0 is not within 1.." },
  { "an epsilon that is no number", with_key("llama.attention.layer_norm_rms_epsilon", "f32", 0 / 0),
    "_epsilon': %-?nan is not within 0..1" },
  { "an infinite base", with_key("llama.rope.freq_base", "f32", 1 / 0),
    "key 'llama.rope.freq_base': inf is not within" },
  { "advisory: wrong vocabulary length, key", with_key("llama.vocab_size", "u32", 500),
    "llama.vocab_size %(500%) is not the number of tokenizer.ggml.tokens %(261%)" },
  { "advisory: wrong vocabulary length, embedding", with(function(g)
    g.tensors[1].ne, g.tensors[1].data = { 32, 259 }, ("\0"):rep(32 * 259 * 4)
  end), "tensor 'token_embd.weight' is %[32 x 259%], but the metadata asks for %[32 x 261%]" },
  { "a tensor missing", with(function(g) table.remove(g.tensors, 5) end), "tensor 'blk.0.attn_v.weight' is missing" },
  { "an architecture that is not built", with_key("general.architecture", "str", "a\27[2Jb\194\155"),
    "the architecture 'a%?%[2Jb%?%?' is not built" },
  { "a template beyond 64 KiB", with_key("tokenizer.chat_template", "str", ("x"):rep(65537)),
    "key 'tokenizer.chat_template': has 65537 bytes; 65536 at most" },
  { "a template that is none", with_key("tokenizer.chat_template", "str", "{% for %}"), "chat template, line 1: " },
}

describe("a GGUF file that is wrong", function()
  it("comes in more than sixty ways", function()
    assert.is_true(#broken > 60)
  end)

  for _, case in ipairs(broken) do
    it("is refused: " .. case[1], function()
      local ok, rc, message = open_all(case[2])
      assert.is_nil(ok)
      assert.is_true(rc < 0)
      assert.matches(case[3], message)
      local code, said, out = moonpool("inspect", path)
      assert.equal(2, code, said)
      assert.equal("", out)
      assert.equal("moonpool inspect: " .. path .. ": ", said:sub(1, #path + 20))
      assert.matches(case[3], said:sub(#path + 21))
    end)
  end

  for _, case in ipairs(unfit) do
    it("is refused: " .. case[1], function()
      write(case[2])
      local code, said, out = moonpool("inspect", "--plan", path)
      assert.equal(2, code, said)
      assert.equal("", out)
      assert.matches(case[3], said)
      local _, paths = said:gsub(path, "")
      assert.equal(1, paths) -- named, and once
    end)
  end

  it("is refused wherever it was cut", function()
    assert.is_true(open_all(good))
    for cut = 0, #good - 1, 97 do
      local ok, rc, message = open_all(good:sub(1, cut))
      assert.is_nil(ok, cut)
      assert.is_true(rc == C.MP_EFORMAT, cut .. ": " .. message)
    end
  end)

  it("never crashes whichever byte was flipped", function()
    math.randomseed(20261124)
    local header = 9000
    local refused = 0
    for _ = 1, 1500 do
      local at = math.random(1, header)
      local flipped = good:sub(1, at - 1) .. string.char(math.random(0, 255)) .. good:sub(at + 1)
      local ok, rc = open_all(flipped)
      refused = refused + (ok and 0 or 1)
      assert.is_true(ok or rc < 0)
    end
    assert.is_true(refused > 100)
  end)

  it("is an error, not a crash, when it shrinks while it is in use", function()
    local g = open(good)
    local t = C.mp_gguf_tensor(g, C.mp_gguf_n_tensors(g) - 1)
    local buffer, err = ffi.new("char[?]", t.bytes), ffi.new "struct mp_err"
    assert.equal(0, C.mp_gguf_read(g, t, 0, buffer, t.bytes, err))
    assert.equal(0, C.mp_gguf_unchanged(g, err))
    write(good:sub(1, 5000))
    assert.equal(C.MP_EIO, C.mp_gguf_read(g, t, 0, buffer, t.bytes, err))
    assert.equal(path .. ": tensor 'output_norm.weight': the file shrank while it was read", ffi.string(err.message))
    assert.equal(C.MP_EIO, C.mp_gguf_unchanged(g, err))
    assert.equal(path .. ": the file changed while it was in use", ffi.string(err.message))
    assert.equal(C.MP_EINVAL, C.mp_gguf_read(g, t, 1, buffer, t.bytes, err))
  end)

  it("is no file at all", function()
    local code, said = moonpool("inspect", "/nonexistent/x.gguf")
    assert.same({ 2, "moonpool inspect: cannot open /nonexistent/x.gguf: No such file or directory\n" }, { code, said })
    code, said = moonpool("inspect", "/")
    assert.same({ 2, "moonpool inspect: /: is no regular file\n" }, { code, said })
    code, said = moonpool("inspect", "/dev/zero")
    assert.same({ 2, "moonpool inspect: /dev/zero: is no regular file\n" }, { code, said })
    os.remove(path)
    os.execute("mkfifo " .. path)
    code, said = moonpool("inspect", path) -- would hang if it were opened for reading as files are
    assert.same({ 2, "moonpool inspect: " .. path .. ": is no regular file\n" }, { code, said })
    os.remove(path)
  end)
end)

describe("a GGUF file", function()
  it("gives its metadata by type, within ranges", function()
    local g = open(gguf.new()
      :kv("u8", "u8", 200):kv("i8", "i8", -3):kv("u16", "u16", 60000):kv("i16", "i16", -300):kv("u32", "u32", 4e9):kv("i32", "i32", -7)
      :kv("u64", "u64", 12):kv("i64", "i64", -1):kv("big", "u64", -1LL):kv("f32", "f32", 0.5):kv("f64", "f64", 0.25):kv("nan", "f32", 0 / 0)
      :kv("yes", "bool", true):kv("no", "bool", false):kv("str", "str", "a\0b"):kv("none", "arr", {}, "u8")
      :kv("ints", "arr", { 1, -2, 3 }, "i32"):kv("strs", "arr", { "x", "", "yz" }, "str"):kv("flags", "arr", { true, false }, "bool")
      :bytes())
    local err = ffi.new "struct mp_err"
    local n, f, b, s, len = ffi.new "uint32_t[1]", ffi.new "float[1]", ffi.new "bool[1]", ffi.new "const char *[1]", ffi.new "size_t[1]"
    local function says(rc, code, text)
      assert.equal(code, rc)
      assert.equal(path .. ": " .. text, ffi.string(err.message))
    end
    for key, value in pairs { u8 = 200, u16 = 60000, u32 = 4e9, u64 = 12 } do
      assert.equal(0, C.mp_gguf_u32(g, key, 0, 2 ^ 32 - 1, n, err))
      assert.equal(value, n[0])
    end
    says(C.mp_gguf_u32(g, "i8", 0, 10, n, err), C.MP_EFORMAT, "key 'i8': -3 is not within 0..10")
    says(C.mp_gguf_u32(g, "u64", 1, 11, n, err), C.MP_EFORMAT, "key 'u64': 12 is not within 1..11")
    says(C.mp_gguf_u32(g, "big", 0, 9, n, err), C.MP_EFORMAT, "key 'big': 9223372036854775807 is not within 0..9")
    says(C.mp_gguf_u32(g, "f32", 0, 1, n, err), C.MP_EFORMAT, "key 'f32': is of type f32, not an integer")
    says(C.mp_gguf_u32(g, "ints", 0, 1, n, err), C.MP_EFORMAT, "key 'ints': is an array of i32, not an integer")
    n[0] = 77
    says(C.mp_gguf_u32(g, "absent", 0, 1, n, err), C.MP_ENOENT, "key 'absent' is missing")
    assert.equal(77, n[0])
    assert.equal(0, C.mp_gguf_f32(g, "f32", 0, 1, f, err))
    assert.equal(0.5, f[0])
    assert.equal(0, C.mp_gguf_f32(g, "f64", 0, 1, f, err))
    assert.equal(0.25, f[0])
    says(C.mp_gguf_f32(g, "f32", 1, 2, f, err), C.MP_EFORMAT, "key 'f32': 0.5 is not within 1..2")
    assert.equal(C.MP_EFORMAT, C.mp_gguf_f32(g, "nan", -1e30, 1e30, f, err))
    says(C.mp_gguf_f32(g, "u8", 0, 1, f, err), C.MP_EFORMAT, "key 'u8': is of type u8, not a float")
    assert.equal(0, C.mp_gguf_bool(g, "yes", b, err))
    assert.is_true(b[0])
    says(C.mp_gguf_bool(g, "str", b, err), C.MP_EFORMAT, "key 'str': is of type str, not a bool")
    assert.equal(0, C.mp_gguf_str(g, "str", 3, s, len, err))
    assert.equal("a\0b", ffi.string(s[0], len[0]))
    says(C.mp_gguf_str(g, "str", 2, s, len, err), C.MP_ELIMIT, "key 'str': has 3 bytes; 2 at most")
    local kv, whole, number = ffi.new "const struct mp_gguf_kv *[1]", ffi.new "int64_t[1]", ffi.new "double[1]"
    assert.equal(0, C.mp_gguf_arr(g, "ints", C.MP_GGUF_I32, kv, err))
    assert.equal(3, tonumber(kv[0].count))
    assert.is_true(C.mp_gguf_int_at(kv[0], 1, whole))
    assert.equal(-2, tonumber(whole[0]))
    assert.is_true(C.mp_gguf_num_at(kv[0], 2, number))
    assert.equal(3, number[0])
    assert.is_false(C.mp_gguf_int_at(kv[0], 3, whole))
    assert.is_false(C.mp_gguf_bool_at(kv[0], 0, b))
    says(C.mp_gguf_arr(g, "ints", C.MP_GGUF_STR, kv, err), C.MP_EFORMAT, "key 'ints': is an array of i32, not an array of str")
    says(C.mp_gguf_arr(g, "u8", C.MP_GGUF_ARR, kv, err), C.MP_EFORMAT, "key 'u8': is of type u8, not an array")
    local list, at = {}, ffi.new "size_t[1]"
    while C.mp_gguf_str_next(C.mp_gguf_find(g, "strs"), at, s, len) do
      list[#list + 1] = ffi.string(s[0], len[0])
    end
    assert.same({ "x", "", "yz" }, list)
    assert.is_false(C.mp_gguf_int_at(C.mp_gguf_find(g, "big"), 0, whole))
    assert.is_true(C.mp_gguf_int_at(C.mp_gguf_find(g, "i64"), 0, whole))
    assert.equal(-1, tonumber(whole[0]))
  end)

  it("of version 2, and with another alignment, is read the same", function()
    for _, options in ipairs { { version = 2 }, { alignment = 64 }, { alignment = 4096 } } do
      local made = gguf.llama(options)
      if options.alignment then
        made:kv("general.alignment", "u32", options.alignment)
      end
      local g = open(made:bytes())
      assert.equal(11, C.mp_gguf_n_tensors(g))
      local t = C.mp_gguf_tensor_find(g, "blk.0.ffn_down.weight")
      assert.same({ 64, 32, 1, 2, 0, 256, 8192 }, {
        tonumber(t.ne[0]), tonumber(t.ne[1]), tonumber(t.ne[2]), t.n_dims, t.type, tonumber(t.row_bytes), tonumber(t.bytes),
      })
      assert.equal(0, tonumber(t.offset) % (options.alignment or 32))
      for i, wanted in ipairs(made.tensors) do
        t = C.mp_gguf_tensor(g, i - 1)
        local data = ffi.new("char[?]", t.bytes)
        assert.equal(0, C.mp_gguf_read(g, t, 0, data, t.bytes, nil))
        assert.is_true(wanted.data == ffi.string(data, t.bytes), wanted.name)
      end
      assert.is_true(C.mp_gguf_tensor_find(g, "nothing") == nil)
    end
  end)

  it("has an identity, and a checksum with progress", function()
    local g = open(good)
    local id = C.mp_gguf_identity(g)
    assert.equal(#good, tonumber(id.size))
    assert.is_true(id.inode > 0 and id.mtime_ns > 0)
    local sum, hex, calls = ffi.new "uint8_t[32]", ffi.new "char[65]", 0
    local callback = ffi.cast("mp_progress_fn *", function(_, done, total)
      calls = calls + 1
      return done <= total
    end)
    assert.equal(0, C.mp_sha256_fd(C.mp_gguf_fd(g), "x", sum, callback, nil, nil))
    callback:free()
    C.mp_sha256_hex(sum, hex)
    local pipe = assert(io.popen("sha256sum " .. path))
    assert.equal(pipe:read("*a"):match "%x+", ffi.string(hex))
    pipe:close()
    assert.equal(1, calls)
    assert.equal(0, C.mp_sha256("abc", 3, sum, nil))
    C.mp_sha256_hex(sum, hex)
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", ffi.string(hex))
  end)

  it("survives every failing allocation", function()
    write(good)
    local failed = 0
    for nth = 1, 100 do
      local g, t, err = ffi.new "struct mp_gguf *[1]", ffi.new "struct mp_tok *[1]", ffi.new "struct mp_err"
      C.mp_mem_fail_after(nth)
      local rc = C.mp_gguf_open(g, path, err)
      if rc == 0 then
        rc = C.mp_tok_new(t, g[0], err)
      end
      C.mp_mem_fail_after(0)
      C.mp_tok_free(t[0])
      C.mp_gguf_free(g[0])
      if rc == 0 then
        break
      end
      failed = failed + 1
      assert.equal(C.MP_ENOMEM, rc)
      assert.matches("no memory", ffi.string(err.message))
    end
    assert.is_true(failed > 10)
  end)
end)

describe("moonpool inspect", function()
  it("shows what a file holds", function()
    local g = gguf.llama()
    g:kv("general.description", "str", 'one "two"\n\27[31mthree\226\128\174four \255' .. ("x"):rep(100))
    g:kv("some.list", "arr", { 1.5, 2, 3, 4, 5, 6, 7 }, "f32")
    write(g:bytes())
    local code, said, out = moonpool("inspect", path)
    assert.equal(0, code, said)
    assert.equal("", said)
    for _, line in ipairs {
      path .. ": GGUF version 3, ", "metadata (19 keys)", '  llama.context_length                         u32  64\n',
      [["one \"two\"\n\u{1b}[31mthree\u{202e}four \xffxxx]], "…\" (129 B)", "[1.5, 2, 3, 4, 5, 6, … 7 in all]", "tensors (11)",
      "  token_embd.weight                            F32   32 x 261             32.6 KiB\n", "parameters  17,664\n",
      "  F32      11 tensors  69.0 KiB\n",
      'tokenizer   byte-level BPE, smollm, 261 tokens; ends a generation: 260 "</s>"\n', "template    the file has none: ChatML\n",
      "memory      on cpu: ", ", plain numerics\n", "  KV cache  256 B a token, 16.0 KiB for a context of 64\n", "  scratch   ",
    } do
      assert.truthy(out:find(line, 1, true), line .. " in\n" .. out)
    end
    assert.is_nil(out:find "\27")
  end)

  it("speaks JSON", function()
    local g = gguf.llama():kv("nan", "f32", 0 / 0):kv("big", "u64", -1LL)
    write(g:bytes())
    local code, _, out = moonpool("inspect", path, "--json")
    assert.equal(0, code)
    local v = json.decode(out)
    assert.same({ path, 3, #g:bytes(), 17664 }, { v.file, v.version, v.bytes, v.parameters })
    assert.equal("llama", v.metadata["general.architecture"])
    assert.equal(json.null, v.metadata.nan)
    assert.equal(2 ^ 64, v.metadata.big)
    assert.equal(261, v.metadata["tokenizer.ggml.tokens"].count)
    assert.same({ name = "token_embd.weight", type = "F32", shape = { 32, 261 }, offset = v.header_bytes, bytes = 33408 }, v.tensors[1])
  end)

  it("shows the plan where asked", function()
    write(good)
    local code, said, out = moonpool("inspect", path, "--plan")
    assert.same({ 0, "" }, { code, said })
    assert.truthy(out:find("\nplan\nplan: 21 nodes, 11 weights, vocabulary 261, context 64, ", 1, true), out)
    assert.truthy(out:find("linear %17 token_embd.weight(both 32x261)", 1, true), out)
    local _, _, text = moonpool("inspect", path, "--plan", "--json")
    local v = json.decode(text)
    assert.equal(out:match "\nplan\n(.*)$", v.plan)
    assert.same({ 256, 16384, 64 }, { v.memory.kv_per_token, v.memory.kv_context, v.memory.context })
    assert.is_true(v.memory.weights >= 70656)
  end)

  it("shows a vocabulary alone, and fails where a plan was asked of it", function()
    write(gguf.new():vocabulary({ merges = { "a b" } }):bytes())
    local code, _, out = moonpool("inspect", path)
    assert.equal(0, code)
    assert.truthy(out:find("memory      not known: the file holds a vocabulary only: no tensors\n", 1, true), out)
    local said
    code, said = moonpool("inspect", path, "--plan")
    assert.same({ 2, "moonpool inspect: the file holds a vocabulary only: no tensors\n" }, { code, said })
  end)

  it("refuses a bad command line", function()
    for _, case in ipairs {
      { { "inspect" }, "FILE is missing" }, { { "inspect", "a", "b" }, "one FILE is wanted; 'b' is a second" },
      { { "inspect", "a", "--plot" }, "unknown option '--plot'" }, { { "tokenize" }, "MODEL is missing" },
      { { "tokenize", "m" }, "TEXT is missing" }, { { "tokenize", "m", "--what" }, "unknown option '--what'" },
      { { "tokenize", "m", "a", "b" }, "MODEL and one TEXT are wanted; 'b' is a third (quote the text)" },
    } do
      local code, said = moonpool(unpack(case[1]))
      assert.equal(2, code)
      assert.equal(("moonpool %s: %s\nusage: "):format(case[1][1], case[2]), said:sub(1, #case[1][1] + #case[2] + 19))
    end
    local code, said = moonpool("inspect", "no-such-model")
    assert.equal(2, code)
    assert.matches("^moonpool inspect: no model file 'no%-such%-model': neither here nor in .-/ %(with or without .gguf%)\n$", said)
  end)
end)

describe("moonpool tokenize", function()
  local function shown(...)
    local code, said, out = moonpool("tokenize", ...)
    assert.same({ 0, "" }, { code, said })
    return out
  end

  it("shows ids and pieces, with special tokens only where asked", function()
    write(gguf.llama():bytes())
    assert.equal('    257  "abc"\n    258  " a"\n     10  "\\n"\n     60  "<"\n    115  "s"\n     62  ">"\n    255  "\\xff"\n',
      shown(path, "abc a\n<s>\255"))
    assert.equal('     97  "a"\n    259  "<s>"  control\n', shown(path, "--special", "a<s>"))
    assert.equal("257 258\n", shown(path, "abc a", "--ids"))
    assert.same({ ids = { 45, 45, 255 }, pieces = { "-", "-", "\239\191\189" } }, json.decode(shown(path, "--json", "--", "--\255")))
    assert.equal("\n", shown(path, "", "--ids"))
  end)

  it("reads standard input", function()
    local pipe = assert(io.popen(("printf 'abc\\0' | %s/moonpool tokenize %s - --ids"):format(build, path)))
    assert.equal("257 0\n", pipe:read "*a")
    pipe:close()
  end)

  it("says why a file cannot be used", function()
    write(gguf.llama({ pre = "gpt-9" }):bytes())
    local code, said = moonpool("tokenize", path, "x")
    assert.equal(2, code)
    assert.matches("^moonpool tokenize: .-: pre%-tokenizer 'gpt%-9' is not built yet", said)
    local _
    code, _, said = moonpool("inspect", path) -- a file that only needs more than we have built is shown all the same
    assert.equal(0, code)
    assert.matches("tokenizer   none: .-: pre%-tokenizer 'gpt%-9' is not built yet", said)
  end)
end)
