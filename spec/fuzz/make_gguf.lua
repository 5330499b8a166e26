--- spec/fuzz/make_gguf.lua: writes the seeds of gguf_fuzz, from the root of the checkout: `luajit spec/fuzz/make_gguf.lua`
local gguf = require "spec.support.gguf"
local folder = "spec/fuzz/corpus/gguf/"

local function tokens(pre)
  local list, kinds = {}, {}
  for c in ("abcdehilnorstu0123.,'!Ġ"):gmatch "[%z\1-\127\194-\244][\128-\191]*" do
    list[#list + 1], kinds[#kinds + 1] = c, 1
  end
  for _, t in ipairs {
    { "in", 1 }, { "th", 1 }, { "the", 1 }, { "Ġth", 1 }, { "<s>", 3 }, { "<|im_end|>", 3 }, { "<u>", 4 }, { "<unk>", 2 },
  } do
    list[#list + 1], kinds[#kinds + 1] = t[1], t[2]
  end
  local g = gguf.new():kv("tokenizer.ggml.model", "str", "gpt2"):kv("tokenizer.ggml.pre", "str", pre)
  g:kv("tokenizer.ggml.tokens", "arr", list, "str"):kv("tokenizer.ggml.token_type", "arr", kinds, "i32")
  g:kv("tokenizer.ggml.merges", "arr", { "i n", "t h", "th e", "Ġ th" }, "str"):kv("tokenizer.ggml.bos_token_id", "u32", #list - 4)
  -- The driver encodes the last 256 bytes.
  return g:kv("text", "str", "the thin' 123  sand <s>, <u> in\n\n the end!\255\204\129 <|im_end|> 'll 've 0.1\r\n  \t it's thorn 2² ")
end

for _, pre in ipairs { "smollm", "gpt-2", "llama-bpe", "qwen2" } do
  tokens(pre):save(folder .. "vocabulary-" .. pre .. ".gguf")
end
gguf.new { alignment = 64 }
  :kv("general.alignment", "u32", 64):kv("u8", "u8", 1):kv("i8", "i8", -1):kv("u16", "u16", 2):kv("i16", "i16", -2):kv("i32", "i32", -3)
  :kv("f32", "f32", 0.5):kv("bool", "bool", true):kv("u64", "u64", 4):kv("i64", "i64", -4):kv("f64", "f64", 0.25)
  :kv("strs", "arr", { "", "a", "bc" }, "str"):kv("bools", "arr", { true, false }, "bool"):kv("f32s", "arr", { 1, 2 }, "f32")
  :tensor("a", { 32, 2 }, "Q8_0"):tensor("b", { 4 }, "F32"):tensor("c", { 2, 2, 2, 2 }, "F16"):tensor("d", { 256 }, "Q4_K")
  :save(folder .. "every-type.gguf")
gguf.new { version = 2 }:save(folder .. "empty-version-2.gguf")
gguf.llama({ width = 4, heads = 2, ff = 4 }):save(folder .. "model.gguf")
