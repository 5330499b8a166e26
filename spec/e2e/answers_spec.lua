--- The answers are the model's own: logits and greedy text of the default model against transformers + torch on the same file
--- (spec/fixtures), and a request's logits the same bits alone, in company, in chunks, on one thread or two, in every
--- instruction set. Numerics: plain. All through core/engine/harness.h, which runs the engine's own steps and pages.
local json = require "dkjson"
local C, ffi = require "spec.support.ffi" "core/engine/harness.h"
jit.on() -- hundreds of millions of logits are compared here

ffi.cdef "int memcmp(const void *a, const void *b, size_t n);"

local MODEL = (os.getenv "MOONPOOL_MODELS" or "models") .. "/smollm2-135m-instruct.gguf"
local SANITIZED = (os.getenv "MOONPOOL_SANITIZE" or "") ~= ""
local TOLERANCE = 1e-3 -- of the position's biggest |logit|
local MAX_GAP = 0.05 -- log-prob, at the first divergence of greedy text
local LONG = 1200

local function slurp(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

--- spec/fixtures/logits.bin, as its README describes it.
local function read_logits()
  local text, at = slurp "spec/fixtures/logits.bin", 8
  local bytes = ffi.cast("const uint8_t *", text)
  local function take(type, n)
    local size = ffi.sizeof(type) * n
    assert(at + size <= #text, "logits.bin is cut short")
    local array = ffi.new(type .. "[?]", n)
    ffi.copy(array, bytes + at, size)
    at = at + size
    return array
  end
  assert(text:sub(1, 8) == "MPLOGIT1")
  local head = take("uint32_t", 4)
  local set = { n_vocab = head[1], n_fixed = head[2], n_top = head[3] }
  set.fixed = take("uint16_t", set.n_fixed)
  for i = 1, head[0] do
    local sizes = take("uint32_t", 2)
    local prompt = { name = ffi.string(take("uint8_t", sizes[0]), sizes[0]), ids = {}, rows = {} }
    local ids = take("uint16_t", sizes[1])
    for j = 1, sizes[1] do
      prompt.ids[j] = ids[j - 1]
      prompt.rows[j] = { biggest = 0 }
    end
    for _, row in ipairs(prompt.rows) do
      row.biggest = take("float", 1)[0]
      row.top = take("uint16_t", set.n_top)
      row.values = take("int16_t", set.n_top + set.n_fixed)
    end
    set[i] = prompt
  end
  assert(at == #text, "logits.bin has bytes left over")
  return set
end

local reference = read_logits()
local N_VOCAB = reference.n_vocab

local function opened(device)
  local h, err = ffi.new "struct mp_harness *[1]", ffi.new "struct mp_err"
  local rc = C.mp_harness_open(h, MODEL, device, 2048, err)
  assert(rc == 0, ffi.string(err.message))
  return ffi.gc(h[0], C.mp_harness_free)
end

local function close(h)
  C.mp_harness_free(ffi.gc(h, nil))
end

--- Runs prompts (lists of ids) side by side. Returns { hash = list of lists, logits = float[n][n_vocab] or nil, stats }.
local function run(h, prompts, chunk, want_logits)
  local total = 0
  for _, ids in ipairs(prompts) do
    total = total + #ids
  end
  local ids, len = ffi.new("int32_t[?]", total), ffi.new("uint32_t[?]", #prompts)
  local at = 0
  for s, list in ipairs(prompts) do
    len[s - 1] = #list
    for _, id in ipairs(list) do
      ids[at], at = id, at + 1
    end
  end
  local logits = want_logits and ffi.new("float[?]", total * N_VOCAB) or nil
  local hash, stats, err = ffi.new("uint64_t[?]", total), ffi.new "struct mp_harness_stats", ffi.new "struct mp_err"
  local rc = C.mp_harness_logits(h, ids, len, #prompts, chunk, logits, hash, stats, err)
  assert(rc == 0, ffi.string(err.message))
  local result = { logits = logits, stats = stats, hash = {} }
  at = 0
  for s, list in ipairs(prompts) do
    result.hash[s] = {}
    for i = 1, #list do
      result.hash[s][i], at = hash[at], at + 1
    end
  end
  return result
end

--- Ids of `n` tokens of prose: the longest prompts one behind the other, as often as it takes.
local function long_prompt(n)
  local ids, sources = {}, { reference[#reference].ids, reference[#reference - 1].ids, reference[5].ids }
  local s = 0
  while #ids < n do
    for _, id in ipairs(sources[s % #sources + 1]) do
      ids[#ids + 1] = #ids < n and id or nil
    end
    s = s + 1
  end
  return ids
end

--- Under a sanitizer, where a token takes ten times as long, a prompt's beginning stands for it.
local function cut(ids)
  return SANITIZED and { unpack(ids, 1, 24) } or ids
end

--- The eight prompts that go side by side.
local function eight()
  local prompts = {}
  for i = 2, 9 do
    prompts[#prompts + 1] = cut(reference[i].ids)
  end
  return prompts
end

--- Why this CPU cannot run the device's instruction set, or nil.
local function lacking(device)
  local flags = " " .. slurp("/proc/cpuinfo"):match "flags%s*:([^\n]*)" .. " "
  for _, flag in ipairs(({ avx2 = { "avx2", "f16c" }, avx512 = { "avx512f", "avx512bw", "avx512dq", "avx512vl" } })
    [device:match "isa=(%w+)"] or {}) do
    if not flags:find(" " .. flag .. " ", 1, true) then
      return "this CPU has no " .. flag
    end
  end
end

--- How far a row of logits is from the reference's, in parts of its biggest; inf where one is not a number.
local function difference(logits, row)
  local off, biggest = 0, 0
  for id = 0, N_VOCAB - 1 do
    if logits[id] ~= logits[id] then
      return math.huge
    end
    biggest = math.max(biggest, math.abs(logits[id]))
  end
  for k = 0, reference.n_top + reference.n_fixed - 1 do
    local id = k < reference.n_top and row.top[k] or reference.fixed[k - reference.n_top]
    off = math.max(off, math.abs(logits[id] - row.values[k] * row.biggest / 32767))
  end
  return math.max(off, math.abs(biggest - row.biggest)) / row.biggest
end

--- Every position of every prompt has the same bits.
local function assert_same_bits(expected, got, what)
  assert.equal(#expected, #got)
  for s, list in ipairs(expected) do
    assert.equal(#list, #got[s])
    for i, hash in ipairs(list) do
      if hash ~= got[s][i] then
        error(("%s: prompt %d differs first at position %d of %d"):format(what, s, i - 1, #list), 2)
      end
    end
  end
end

describe("the default model's logits", function()
  local best, alone = nil, {}

  setup(function()
    best = opened "cpu"
  end)
  teardown(function()
    close(best)
  end)

  it("are the reference's at every position of every prompt", function()
    assert.equal(N_VOCAB, C.mp_harness_n_vocab(best))
    assert.is_true(#reference >= 10)
    local worst, positions = { ratio = 0 }, 0
    for p, prompt in ipairs(reference) do
      local ids = cut(prompt.ids)
      local got = run(best, { ids }, 512, true)
      alone[p] = got.hash[1]
      for i = 1, #ids do
        local off = difference(got.logits + (i - 1) * N_VOCAB, prompt.rows[i])
        positions = positions + 1
        if off > worst.ratio then
          worst = { ratio = off, where = ("%s, position %d"):format(prompt.name, i - 1) }
        end
      end
    end
    io.write(("max|difference| / max|logit| over %d positions: %.2g (%s), on %s\n"):format(positions, worst.ratio, worst.where,
      ffi.string(C.mp_harness_device(best))))
    assert.is_true(worst.ratio <= TOLERANCE, worst.where)
  end)

  -- Greedy decoding of ours follows the reference exactly as long as the reference's tokens before are ours too, so one pass over
  -- prompt and reference answer tells the length of the common text and what we would have said instead.
  it("give the reference's greedy text, but where its own margin is thin", function()
    if SANITIZED then
      return pending "takes minutes under a sanitizer"
    end
    local rows = json.decode(slurp "spec/fixtures/greedy.json")
    assert.equal(10, #rows)
    local same, told = 0, {}
    for r, row in ipairs(rows) do
      local ids = {}
      for _, id in ipairs(row.prompt) do
        ids[#ids + 1] = id
      end
      for _, id in ipairs(row.tokens) do
        ids[#ids + 1] = id
      end
      assert.equal(32, #row.tokens)
      local logits = run(best, { ids }, 512, true).logits
      local diverged = false
      for i, wanted in ipairs(row.tokens) do
        local values, chosen = logits + (#row.prompt + i - 2) * N_VOCAB, 0
        for id = 1, N_VOCAB - 1 do
          if values[id] > values[chosen] then
            chosen = id
          end
        end
        if chosen ~= wanted then
          local gap = math.huge
          for _, candidate in ipairs(row.candidates[i]) do
            gap = candidate[1] == chosen and row.candidates[i][1][2] - candidate[2] or gap
          end
          told[#told + 1] = ("prompt %d, token %d: %d instead of %d, gap %.4f"):format(r, i, chosen, wanted, gap)
          assert.is_true(gap <= MAX_GAP, told[#told])
          diverged = true
          break
        end
      end
      same = same + (diverged and 0 or 1)
    end
    io.write(("greedy text of 32 tokens: equal on %d of %d prompts %s\n"):format(same, #rows, table.concat(told, "; ")))
    assert.is_true(same >= 8, table.concat(told, "\n"))
  end)

  it("are the same bits in a batch of eight, and by memcmp", function()
    local prompts = eight()
    local batch = run(best, prompts, 64, true)
    assert.is_true(batch.stats.mean_seq >= 4, "mean batch size " .. batch.stats.mean_seq)
    local at = 0
    for s, ids in ipairs(prompts) do
      local single = run(best, { ids }, 512, true)
      assert.is_true(single.stats.mean_seq == 1)
      local bytes = #ids * N_VOCAB * 4
      assert.equal(0, ffi.C.memcmp(single.logits, batch.logits + at * N_VOCAB, bytes), "prompt " .. s)
      assert_same_bits({ alone[s + 1] or single.hash[1] }, { batch.hash[s] }, "in a batch")
      at = at + #ids
    end
  end)

  for _, chunk in ipairs { 7, 64, 512 } do
    it("are the same bits with prompts chunked at " .. chunk, function()
      local expected = {}
      for s, ids in ipairs(eight()) do
        expected[s] = alone[s + 1] or run(best, { ids }, 512).hash[1]
      end
      local batch = run(best, eight(), chunk)
      if chunk == 7 then
        assert.is_true(batch.stats.mean_seq >= 4, "mean batch size " .. batch.stats.mean_seq)
      end
      assert_same_bits(expected, batch.hash, "chunk " .. chunk)
    end)
  end

  describe("of a prompt of 1,200 tokens", function()
    local ids, expected = long_prompt(LONG), nil

    setup(function()
      assert.equal(LONG, #ids)
      expected = SANITIZED or run(best, { ids }, 512).hash
    end)

    for _, chunk in ipairs { 7, 64 } do
      it("are the same bits chunked at " .. chunk .. " in company", function()
        if SANITIZED then
          return pending "takes minutes under a sanitizer"
        end
        local prompts = { ids, unpack(eight(), 1, 7) }
        local got = run(best, prompts, chunk)
        assert_same_bits(expected, { got.hash[1] }, "chunk " .. chunk)
      end)
    end

    for _, device in ipairs { "cpu:threads=1", "cpu:isa=avx2", "cpu:isa=avx512", "cpu:isa=plain" } do
      it("are the same bits on " .. device, function()
        if SANITIZED then
          return pending "takes minutes under a sanitizer"
        elseif lacking(device) then
          return pending(lacking(device))
        end
        local h = opened(device)
        local got = run(h, { ids }, 512)
        close(h)
        assert_same_bits(expected, got.hash, device)
      end)
    end
  end)

  for _, device in ipairs {
    "cpu:threads=1", "cpu:threads=2", "cpu:isa=avx2", "cpu:isa=avx512", "cpu:isa=plain,threads=1",
  } do
    it("are the same bits in a batch of eight on " .. device, function()
      if lacking(device) then
        return pending(lacking(device))
      end
      local expected = {}
      for s, prompt in ipairs(eight()) do
        expected[s] = alone[s + 1] or run(best, { prompt }, 512).hash[1]
      end
      local h = opened(device)
      local name = ffi.string(C.mp_harness_device(h))
      local isa = device:match "isa=(%w+)"
      assert.is_true(not isa or name:find(isa, 1, true) ~= nil or (isa == "avx512" and name:find("avx-512", 1, true) ~= nil), name)
      local batch = run(h, eight(), 64)
      close(h)
      assert_same_bits(expected, batch.hash, device)
    end)
  end
end)
