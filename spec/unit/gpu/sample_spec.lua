--- gpu/lower/sample: philox's known answers, filters against exact probabilities, independence from the batch, penalties,
--- masks, bad logits.
local gpu = require "spec.support.gpu"
local ffi = gpu.ffi
local C = require "spec.support.ffi"("gpu/lower/sample.h")

local function row(values)
  return ffi.new("float[?]", #values, values)
end

local function slot(ids)
  local s = ffi.gc(ffi.new "struct mp_slot", C.mp_slot_free)
  if ids then
    C.mp_slot_set(s, ffi.new("int32_t[?]", #ids, ids), #ids)
  end
  return s
end

local function sample(logits, n, pick, s)
  local got = ffi.new "struct mp_got"
  C.mp_sample_row(logits, n, gpu.pick(pick), s or slot(), ffi.new("float[?]", 2 * n), got)
  return got
end

--- What gpu/device.h says, the slow way: the probability of every id.
local function exact(z, t)
  local n, order, p = #z, {}, {}
  local best = math.max(unpack(z))
  for i = 1, n do
    order[i], p[i] = i, math.exp((z[i] - best) / t.temp)
  end
  table.sort(order, function(a, b) return z[a] > z[b] or (z[a] == z[b] and a < b) end)
  local kept, total = {}, 0
  for k, i in ipairs(order) do
    if (t.top_k or 0) == 0 or k <= t.top_k then
      kept[#kept + 1], total = i, total + p[i]
    end
  end
  local sum, nucleus = 0, {}
  for _, i in ipairs(kept) do
    if sum < (t.top_p or 1) * total or t.top_p == nil then
      nucleus[#nucleus + 1], sum = i, sum + p[i]
    end
  end
  local out, all = {}, 0
  for _, i in ipairs(nucleus) do
    if p[i] >= (t.min_p or 0) then
      out[i], all = p[i], all + p[i]
    end
  end
  for i in pairs(out) do
    out[i] = out[i] / all
  end
  return out
end

describe("philox4x32-10", function()
  local function philox(counter, key)
    local out = ffi.new "uint32_t[4]"
    C.mp_philox(ffi.new("uint32_t[4]", counter), ffi.new("uint32_t[2]", key), out)
    return ("%08x %08x %08x %08x"):format(out[0], out[1], out[2], out[3])
  end
  it("gives the known answers of Random123", function()
    assert.equal("6627e8d5 e169c58d bc57ac4c 9b00dbd8", philox({ 0, 0, 0, 0 }, { 0, 0 }))
    local f = 0xffffffff
    assert.equal("408f276d 41c83b0e a20bc7c6 6d5451fd", philox({ f, f, f, f }, { f, f }))
    assert.equal("d16cfe09 94fdcceb 5001e420 24126ea1",
      philox({ 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 }))
  end)
end)

describe("the sampler", function()
  it("takes the lowest id of the largest when greedy, and says its log-probability", function()
    local got = sample(row { 1, 5, 3, 5, 2 }, 5, { greedy = true, top_n = 3 })
    assert.equal(1, got.id)
    assert.equal(0, got.bad)
    local sum = 0
    for _, z in ipairs { 1, 5, 3, 5, 2 } do
      sum = sum + math.exp(z)
    end
    assert.is_true(math.abs(got.logprob - (5 - math.log(sum))) < 1e-6)
    assert.equal(3, got.n_top)
    assert.same({ 1, 3, 2 }, { got.top[0].id, got.top[1].id, got.top[2].id })
    assert.is_true(math.abs(got.top[2].logprob - (3 - math.log(sum))) < 1e-6)
  end)

  it("draws from the distribution that the settings describe", function()
    local random = gpu.random(11)
    local z = {}
    for i = 1, 37 do
      z[i] = random.normal() * 2
    end
    z[20] = z[7] -- equals
    for _, t in ipairs {
      { temp = 1 }, { temp = 0.6 }, { temp = 1.7, top_k = 5 }, { temp = 1, top_p = 0.8 }, { temp = 1, min_p = 0.1 },
      { temp = 0.9, top_k = 12, top_p = 0.9, min_p = 0.02 }, { temp = 1, top_k = 1 }, { temp = 1, top_p = 0.0001 },
    } do
      local p, n, seen = exact(z, t), 20000, {}
      local logits = row(z)
      local pick = { temp = t.temp, top_k = t.top_k or 0, top_p = t.top_p or 1, min_p = t.min_p or 0, seed = 99 }
      for i = 1, n do
        pick.index = i
        local got = sample(logits, #z, pick)
        seen[got.id + 1] = (seen[got.id + 1] or 0) + 1
      end
      local chi, cells = 0, 0
      for i in pairs(seen) do
        assert.truthy(p[i], ("id %d may not come"):format(i - 1))
      end
      local rest, rest_seen = 0, 0
      for i, pi in pairs(p) do
        if pi * n >= 5 then
          chi, cells = chi + ((seen[i] or 0) - pi * n) ^ 2 / (pi * n), cells + 1
        else
          rest, rest_seen = rest + pi * n, rest_seen + (seen[i] or 0)
        end
      end
      if rest >= 5 then
        chi, cells = chi + (rest_seen - rest) ^ 2 / rest, cells + 1
      end
      local free = cells - 1
      assert.is_true(chi <= free + 5 * math.sqrt(2 * free) + 5, ("chi square %.1f with %d degrees of freedom"):format(chi, free))
    end
  end)

  it("draws the tail of a large vocabulary as often as it should", function()
    local n = 50000
    local logits = ffi.new("float[?]", n)
    logits[0] = 10 -- e^10 against 49999: 30.6 %
    local hits, draws = 0, 400
    for i = 1, draws do
      hits = hits + (sample(logits, n, { temp = 1, seed = 5, index = i }).id == 0 and 1 or 0)
    end
    local p = math.exp(10) / (math.exp(10) + n - 1)
    assert.is_true(math.abs(hits - p * draws) < 5 * math.sqrt(draws * p * (1 - p)), hits)
  end)

  it("depends on seed and index, and on nothing else", function()
    local random, z = gpu.random(3), {}
    for i = 1, 100 do
      z[i] = random.normal()
    end
    local logits = row(z)
    local function ids(seed)
      local list = {}
      for i = 1, 30 do
        list[i] = sample(logits, 100, { temp = 1, seed = seed, index = i }).id
      end
      return list
    end
    assert.same(ids(1), ids(1))
    assert.are_not.same(ids(1), ids(2))
    -- Ids that a filter takes out do not move the noise of the others: the best of what is left stays the best.
    local free = sample(logits, 100, { temp = 1, seed = 8, index = 1 }).id
    local allow = ffi.new "uint32_t[4]"
    for i = 0, 99, 2 do
      allow[i / 32] = bit.bor(allow[i / 32], bit.lshift(1, i % 32))
    end
    local masked = sample(logits, 100, { temp = 1, seed = 8, index = 1, allow = allow }).id
    assert.equal(0, masked % 2)
    if free % 2 == 0 then
      assert.equal(free, masked)
    end
  end)

  it("penalises what the slot has seen", function()
    local s = slot { 0, 0, 3 }
    assert.equal(2, C.mp_slot_count(s, 0))
    assert.equal(0, C.mp_slot_count(s, 1))
    local z = row { 4, 3.5, -1, -1.2 }
    assert.equal(0, sample(z, 4, { greedy = true }, s).id)
    assert.equal(1, sample(z, 4, { greedy = true, freq = 0.3 }, s).id) -- 4 - 0.6
    assert.equal(1, sample(z, 4, { greedy = true, pres = 0.6 }, s).id)
    assert.equal(1, sample(z, 4, { greedy = true, rep = 1.2 }, s).id) -- 4 / 1.2
    assert.equal(0, sample(z, 4, { greedy = true, rep = 1.1 }, s).id)
    -- Negative logits are multiplied; log-probs stay those of the raw ones.
    assert.equal(2, sample(row { -9, -9, -1.5, -1.2 }, 4, { greedy = true, rep = 1.5 }, s).id)
    local raw = sample(z, 4, { greedy = true }).logprob
    assert.is_true(sample(z, 4, { greedy = true, freq = 0.3 }, s).logprob < raw)
    C.mp_slot_push(s, 1)
    assert.equal(1, s.last)
    assert.equal(1, C.mp_slot_count(s, 1))
    C.mp_slot_set(s, nil, 0)
    assert.equal(0, C.mp_slot_count(s, 0))
    for i = 0, 999 do
      C.mp_slot_push(s, i % 500)
    end
    assert.equal(2, C.mp_slot_count(s, 499))
  end)

  it("says when logits are bad", function()
    local nan, inf = 0 / 0, math.huge
    for _, z in ipairs { { 1, nan, 2 }, { 1, inf, 2 }, { -inf, -inf, -inf } } do
      local got = sample(row(z), 3, { greedy = true })
      assert.equal(1, got.bad)
      assert.equal(-1, got.id)
    end
    assert.equal(2, sample(row { -inf, -inf, 0 }, 3, { temp = 1, top_k = 2 }).id)
    local none = ffi.new "uint32_t[1]"
    assert.equal(1, sample(row { 1, 2, 3 }, 3, { greedy = true, allow = none }).bad)
    local long = ffi.new("float[?]", 1000)
    long[777] = nan
    assert.equal(1, sample(long, 1000, { temp = 1 }).bad)
  end)

  it("refuses settings out of range", function()
    local function fault(t)
      local rc = C.mp_pick_check(gpu.pick(t), 4, 4, gpu.err())
      return rc ~= 0 and gpu.message()
    end
    assert.is_false(fault { greedy = true, temp = 0 })
    assert.is_false(fault { temp = 2, top_p = 0.5, top_k = 40, min_p = 0.1 })
    assert.equal("sample: row 4; the last forward kept 4", fault { row = 4 })
    assert.equal("sample: slot 4; there are 4", fault { slot = 4 })
    assert.equal("sample: 21 log-probabilities; at most 20", fault { top_n = 21 })
    assert.equal("sample: a penalty is out of range", fault { rep = -1 })
    assert.equal("sample: a penalty is out of range", fault { freq = 0 / 0 })
    for _, t in ipairs { { temp = 0 }, { temp = 0 / 0 }, { temp = math.huge }, { top_p = 0 }, { top_p = 1.1 }, { min_p = -0.1 },
      { min_p = 1.5 }, { top_k = -1 } } do
      assert.equal("sample: temperature, top_p, min_p or top_k is out of range", fault(t))
    end
  end)
end)
