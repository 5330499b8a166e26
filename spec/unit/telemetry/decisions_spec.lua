--- core/telemetry/decisions.c: the ring, what repeats, what is too long, and who waits for it.
local C, ffi = require "spec.support.ffi"("core/telemetry/decisions.h", "core/base/buf.h")
local json = require "spec.support.json"
local threads = require "spec.support.threads"

ffi.cdef "typedef void (*spec_wake)(void *);"

local function decide(t)
  local d = ffi.new "struct mp_decision"
  for key, value in pairs(t) do
    d[key] = value
  end
  C.mp_decide(d)
end

--- Those numbered above `after`, decoded, and the next `after`.
local function read(after, most)
  local b = ffi.new "struct mp_buf"
  local last = tonumber(C.mp_decisions_print(after or 0, most or 100000, b))
  local text = b.len > 0 and ffi.string(b.data, b.len) or ""
  C.mp_buf_free(b)
  local out = {}
  for line in text:gmatch "[^\n]+" do
    out[#out + 1] = json.decode(line)
  end
  return out, last, text
end

local function last()
  return select(2, read(2 ^ 60))
end

describe("the ring of decisions", function()
  it("gives a JSON line each, and what was not given is absent", function()
    local before, now = last(), os.time()
    decide { kind = "scale", policy = "thrifty", model = "smol", decision = "1", reason = "3 wait", inputs = '{"queued":\n3}' }
    decide { kind = "state", model = "smol", decision = "cold -> loading", reason = "demand" }
    local got, n, text = read(before)
    assert.equal(before + 2, n)
    assert.equal(2, select(2, text:gsub("\n", "")))
    assert.is_true(math.abs(got[1].time - now) < 5)
    got[1].time, got[2].time = nil, nil
    assert.same({ n = before + 1, kind = "scale", policy = "thrifty", model = "smol", decision = "1", reason = "3 wait", times = 1,
      inputs = { queued = 3 } }, got[1])
    assert.same({ n = before + 2, kind = "state", model = "smol", decision = "cold -> loading", reason = "demand", times = 1 }, got[2])
  end)

  it("counts what repeats, per kind and model, but not states, reloads and jobs", function()
    local before = last()
    for _ = 1, 3 do
      decide { kind = "scale", policy = "p", model = "a", decision = "0", reason = "idle", inputs = "{}" }
      decide { kind = "scale", policy = "p", model = "b", decision = "0", reason = "idle" }
    end
    decide { kind = "scale", policy = "p", model = "a", decision = "1", reason = "idle" }
    decide { kind = "scale", policy = "p", model = "a", decision = "0", reason = "idle" }
    for _, kind in ipairs { "state", "reload", "job" } do
      decide { kind = kind, decision = "x" }
      decide { kind = kind, decision = "x" }
    end
    local got = read(before)
    assert.equal(10, #got)
    assert.same({ 3, 3, 1, 1 }, { got[1].times, got[2].times, got[3].times, got[4].times })
    assert.is_true(got[1].last >= got[1].time)
    assert.is_nil(got[3].last)
    for _, field in ipairs { "policy", "reason", "fallback" } do
      local one = { kind = "evict", model = "c", decision = "d" }
      decide(one)
      one[field] = "other"
      decide(one)
    end
    local after = read(got[10].n)
    assert.equal(6, #after) -- each differs from the one before it
  end)

  it("pages: at most so many lines, and where to go on", function()
    local before = last()
    for i = 1, 5 do
      decide { kind = "state", decision = tostring(i) }
    end
    local first, n = read(before, 2)
    assert.same({ "1", "2" }, { first[1].decision, first[2].decision })
    assert.equal(before + 2, n)
    local rest, all = read(n)
    assert.equal(3, #rest)
    assert.equal(before + 5, all)
    assert.equal(all, select(2, read(all)))
    assert.equal(0, #read(2 ^ 53)) -- numbers of another process: nothing, and the highest there is
    assert.equal(all, select(2, read(2 ^ 53)))
    local b = ffi.new "struct mp_buf"
    assert.equal(all, tonumber(C.mp_decisions_print(ffi.cast("uint64_t", -1), 10, b)))
    assert.equal(0, tonumber(b.len))
  end)

  it("leaves out inputs that are too long or no JSON, cuts texts, and keeps them UTF-8", function()
    local before = last()
    decide { kind = "route", decision = "a", inputs = '{"x":"' .. ("y"):rep(ffi.C.MP_DECISION_MAX) .. '"}' }
    decide { kind = "route", decision = "b", inputs = "{oops}" }
    decide { kind = "route", decision = "c", reason = ("é"):rep(5000), inputs = '{"fits":true}' }
    decide { kind = "route", decision = "d", reason = "bad \255\nline" }
    local got = read(before)
    assert.is_nil(got[1].inputs)
    assert.is_nil(got[2].inputs)
    assert.is_true(#got[3].reason > 500 and #got[3].reason < ffi.C.MP_DECISION_MAX)
    assert.equal(("é"):rep(#got[3].reason / 2), got[3].reason)
    assert.same({ fits = true }, got[3].inputs)
    assert.equal("bad \239\191\189\nline", got[4].reason)
  end)

  it("keeps the newest: so many, and so many bytes", function()
    local kept = ffi.C.MP_DECISIONS_KEPT
    for i = 1, kept + 100 do
      decide { kind = "state", decision = tostring(i) }
    end
    local got, n = read(0)
    assert.equal(kept, #got)
    assert.equal(n - kept + 1, got[1].n)
    assert.equal(tostring(kept + 100), got[kept].decision)
    local inputs = '{"x":"' .. ("y"):rep(ffi.C.MP_DECISION_MAX - 2000) .. '"}'
    for _ = 1, 2000 do
      decide { kind = "state", decision = "big", inputs = inputs }
    end
    local _, _, text = read(0)
    assert.is_true(#text < ffi.C.MP_DECISIONS_BYTES * 1.1)
    for i = 1, #got do
      decide { kind = "state", decision = tostring(i) } -- and small ones come back to their number
    end
    assert.equal(kept, #read(0))
  end)

  it("wakes a watcher once, at the next new one", function()
    local n = 0
    local wake = ffi.cast("spec_wake", function(ctx)
      n = n + 1
      assert(ffi.cast("intptr_t", ctx) == 7)
    end)
    C.mp_decisions_watch(wake, ffi.cast("void *", 7))
    decide { kind = "admit", model = "w", decision = "accept" }
    decide { kind = "admit", model = "w", decision = "refuse" }
    assert.equal(1, n)
    C.mp_decisions_watch(wake, ffi.cast("void *", 7))
    decide { kind = "admit", model = "w", decision = "refuse" } -- only counted
    assert.equal(1, n)
    C.mp_decisions_watch(nil, nil)
    decide { kind = "admit", model = "w", decision = "accept" }
    assert.equal(1, n)
    wake:free()
  end)

  it("loses none when many threads decide while others read", function()
    local before = last()
    threads.run(8, 250, [[
      struct { const char *t[7]; } d = {{0}};
      struct { char *data; size_t len, cap; } b = {0};
      void mp_decide(const void *); unsigned long mp_decisions_print(unsigned long, unsigned, void *); void mp_buf_free(void *);
      char text[20]; snprintf(text, sizeof text, "%d", i);
      d.t[0] = i % 2 ? "state" : "scale"; d.t[2] = "threads"; d.t[3] = text;
      mp_decide(&d);
      if (i % 50 == 0) mp_decisions_print(0, 100, &b);
      mp_buf_free(&b);
    ]])
    local got, states, times = read(before), 0, 0
    for i, d in ipairs(got) do
      assert.equal(before + i, d.n)
      states = states + (d.kind == "state" and 1 or 0)
      times = times + d.times
    end
    assert.equal(1000, states)
    assert.equal(2000, times)
  end)
end)
