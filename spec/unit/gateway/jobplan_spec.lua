--- core/gateway/jobplan.c: when jobs are due, in virtual time.
local C, ffi = require "spec.support.ffi"("core/gateway/jobplan.h", "core/base/cron.h", "core/base/tz.h")

local err = ffi.new "struct mp_err"
local SKIP, QUEUE, ALLOW = 0, 1, 2
local keep -- cron structures and zones of the present declaration

local function declare(plan, now, jobs)
  local list = ffi.new("struct mp_jobplan_job[?]", #jobs + 1)
  keep = { list, jobs }
  for i, j in ipairs(jobs) do
    local item = list[i - 1]
    item.name, item.what = j.name, j.what or j.cron or "every " .. j.every
    item.every, item.jitter, item.overlap = j.every or 0, j.jitter or 0, j.overlap or SKIP
    if j.cron then
      local cron = ffi.new "struct mp_cron"
      assert.equal(0, C.mp_cron_parse(cron, j.cron, err), ffi.string(err.message))
      item.cron, keep[#keep + 1] = cron, cron
    end
    if j.tz then
      local tz = ffi.new "struct mp_tz *[1]"
      assert.equal(0, C.mp_tz_open(tz, j.tz, err), ffi.string(err.message))
      item.tz, keep[#keep + 1] = tz[0], ffi.gc(tz[0], C.mp_tz_free)
    end
  end
  C.mp_jobplan_declare(plan, list, #jobs, now)
end

--- What begins at that moment: { { index, tick, late, missed }, … }, and what was skipped.
local function due(plan, now)
  local out, skipped = {}, ffi.new "uint32_t[16]"
  local d = ffi.new "struct mp_jobplan_due"
  while C.mp_jobplan_next(plan, now, d, skipped) do
    out[#out + 1] = { d.index, d.tick, d.late, d.missed }
  end
  return out, skipped
end

local function when(plan, now)
  local at = ffi.new "double[1]"
  return C.mp_jobplan_when(plan, now, at) and at[0] or nil
end

local function saved(plan)
  local b = ffi.new "struct mp_buf"
  C.mp_jobplan_save(plan, b)
  local text = ffi.string(b.data, b.len)
  C.mp_buf_free(b)
  return text
end

describe("the plan of jobs", function()
  local plan
  before_each(function() plan = C.mp_jobplan_new() end)
  after_each(function() C.mp_jobplan_free(plan) end)

  it("fires each tick of a day once, whenever it is asked, over 400 reloads", function()
    local T = 1700000000 - 1700000000 % 86400
    local jobs = { { name = "quarter", cron = "*/15 * * * *" }, { name = "often", every = 100 } }
    declare(plan, T, jobs)
    local ticks = { [0] = {}, {} }
    local now, random = T, 12345
    while now < T + 86400 do
      random = (random * 1103515245 + 12345) % 2147483648
      now = math.min(T + 86400, math.max(now + random % 50 / 7, 0))
      if random % 20 == 0 then
        declare(plan, now, jobs)
      end
      for _, d in ipairs(due(plan, now)) do
        local list = ticks[d[1]]
        assert.is_true(#list == 0 or d[2] > list[#list], "a tick twice")
        assert.equal(0, d[4])
        list[#list + 1] = d[2]
        C.mp_jobplan_ended(plan, jobs[d[1] + 1].name)
      end
    end
    assert.same({ 96, 864 }, { #ticks[0], #ticks[1] })
    assert.equal(T + 900, ticks[0][1])
    assert.equal(T + 86400, ticks[1][864])
  end)

  it("makes one late run of what was missed, and says how late and how many", function()
    declare(plan, 1000, { { name = "a", every = 10 }, { name = "b", cron = "0 * * * *" } })
    local got = due(plan, 1000 + 7 * 3600 + 5)
    table.sort(got, function(x, y) return x[1] < y[1] end)
    assert.same({ 0, 26200, 5, 2519 }, got[1])
    assert.same({ 1, 25200, 1005, 6 }, got[2])
    assert.same({}, due(plan, 1000 + 7 * 3600 + 6))
  end)

  it("drops a tick, keeps one, or runs too, when one comes while it runs", function()
    declare(plan, 0, { { name = "s", every = 10 }, { name = "q", every = 10, overlap = QUEUE }, { name = "a", every = 10, overlap = ALLOW } })
    assert.equal(3, #due(plan, 10))
    local got, skipped = due(plan, 20)
    assert.same({ { 2, 20, 0, 0 } }, got)
    assert.equal(1, skipped[0])
    assert.equal(1, #due(plan, 30))
    C.mp_jobplan_ended(plan, "q")
    assert.equal(0, when(plan, 31) - 31)
    assert.same({ { 1, 30, 1, 1 } }, due(plan, 31))
    C.mp_jobplan_ended(plan, "s")
    C.mp_jobplan_ended(plan, "q")
    got = due(plan, 40)
    assert.equal(3, #got)
    table.sort(got, function(x, y) return x[1] < y[1] end)
    assert.same({ 0, 40, 0, 2 }, got[1])
    for _ = 1, 30 do
      due(plan, 1e6)
    end
    local s = ffi.new "struct mp_jobplan_status"
    C.mp_jobplan_status(plan, 2, 1e6, s)
    assert.is_true(s.running <= 16)
  end)

  it("remembers over a restart what it fired, and what it owes", function()
    declare(plan, 1000, { { name = "a", every = 100 }, { name = "b", cron = "0 0 * * *" } })
    assert.equal(1, #due(plan, 1105))
    local text = saved(plan)
    C.mp_jobplan_free(plan)
    plan = C.mp_jobplan_new()
    assert.equal(0, C.mp_jobplan_load(plan, text, #text, err), ffi.string(err.message))
    declare(plan, 1106, { { name = "a", every = 100 }, { name = "b", cron = "0 0 * * *" } })
    assert.same({}, due(plan, 1150))
    assert.same({ { 0, 1200, 0, 0 } }, due(plan, 1200))
    C.mp_jobplan_ended(plan, "a")
    text = saved(plan)
    C.mp_jobplan_free(plan)
    plan = C.mp_jobplan_new()
    C.mp_jobplan_load(plan, text, #text, err)
    declare(plan, 90000, { { name = "b", cron = "0 0 * * *" } })
    assert.same({ { 0, 86400, 3600, 0 } }, due(plan, 90000))
  end)

  it("remembers over a restart what waited for the end of a run, and how many had none", function()
    local jobs = { { name = "q", every = 10, overlap = QUEUE }, { name = "s", every = 10 } }
    declare(plan, 0, jobs)
    assert.equal(2, #due(plan, 10))
    assert.same({}, due(plan, 20))
    assert.same({}, due(plan, 30))
    local text = saved(plan)
    C.mp_jobplan_free(plan)
    plan = C.mp_jobplan_new()
    assert.equal(0, C.mp_jobplan_load(plan, text, #text, err), ffi.string(err.message))
    declare(plan, 35, jobs)
    assert.same({ { 0, 30, 5, 1 } }, due(plan, 35))
    C.mp_jobplan_ended(plan, "q")
    assert.same({ { 0, 40, 0, 0 }, { 1, 40, 0, 2 } }, due(plan, 40))
  end)

  it("counts a changed declaration, and one that comes back, from then on", function()
    declare(plan, 0, { { name = "a", every = 10 } })
    declare(plan, 95, { { name = "a", every = 20 } })
    assert.same({}, due(plan, 114))
    assert.same({ { 0, 115, 0, 0 } }, due(plan, 115))
    C.mp_jobplan_ended(plan, "a")
    declare(plan, 200, {})
    assert.is_nil(when(plan, 200))
    declare(plan, 1000, { { name = "a", every = 20 } })
    assert.same({}, due(plan, 1019))
    assert.equal(1020, when(plan, 1019))
  end)

  it("has room for every job, and forgets none that is there for one that is new", function()
    local function many(from, n)
      local list = {}
      for i = from, from + n - 1 do
        list[#list + 1] = { name = "j" .. i, every = 10 }
      end
      return list
    end
    declare(plan, 1000, many(1, 1000))
    local both = many(1001, 500) -- the new ones first: 500 of the old ones make room
    for _, j in ipairs(many(501, 500)) do
      both[#both + 1] = j
    end
    declare(plan, 1005, both)
    local d, at = ffi.new "struct mp_jobplan_due", {}
    while C.mp_jobplan_next(plan, 1015, d, nil) do
      at[d.tick] = (at[d.tick] or 0) + 1
    end
    assert.same({ [1010] = 500, [1015] = 500 }, at)
    declare(plan, 1015, many(2001, 1000)) -- while those still run
    local n = 0
    while C.mp_jobplan_next(plan, 1025, d, nil) do
      n = n + 1
    end
    assert.equal(1000, n)
    local text = saved(plan)
    C.mp_jobplan_free(plan)
    plan = C.mp_jobplan_new()
    assert.equal(0, C.mp_jobplan_load(plan, text, #text, err), ffi.string(err.message))
  end)

  it("fires none twice when the clock is set back, and never waits for longer than `every`", function()
    declare(plan, 100000, { { name = "a", every = 60 }, { name = "c", cron = "* * * * *" } })
    assert.equal(2, #due(plan, 100080))
    C.mp_jobplan_ended(plan, "a")
    C.mp_jobplan_ended(plan, "c")
    assert.same({}, due(plan, 96480))
    assert.same({ { 0, 96540, 0, 0 } }, due(plan, 96540))
    C.mp_jobplan_ended(plan, "a")
    C.mp_jobplan_ended(plan, "c")
    declare(plan, 1000, { { name = "c", cron = "* * * * *" } })
    due(plan, 1000)
    assert.equal(1020, when(plan, 1000), "a clock that was a day ahead was wrong")
  end)

  it("puts a tick off by the same time whenever asked, within jitter", function()
    declare(plan, 0, { { name = "a", every = 100, jitter = 50 } })
    local at = when(plan, 0)
    assert.is_true(at >= 100 and at < 150)
    assert.equal(at, when(plan, 99))
    assert.same({}, due(plan, at - 0.01))
    assert.equal(100, due(plan, at)[1][2])
    C.mp_jobplan_ended(plan, "a")
    assert.not_equal(at - 100, when(plan, at) - 200)
  end)

  it("keeps a local time over a change of the clocks", function()
    local spring = 1774656000 -- 2026-03-28 00:00 UTC; the clocks go forward on the 29th
    declare(plan, spring, { { name = "a", cron = "30 2 * * *", tz = "Europe/Berlin" } })
    local ticks = {}
    for now = spring, spring + 3 * 86400, 600 do
      for _, d in ipairs(due(plan, now)) do
        ticks[#ticks + 1] = (d[2] - spring) / 3600
        C.mp_jobplan_ended(plan, "a")
      end
    end
    assert.same({ 1.5, 25, 48.5 }, ticks) -- 02:30 CET, the moment of the jump, 02:30 CEST
  end)

  it("takes no nonsense for a memory", function()
    for _, text in ipairs { "", "[]", "{", '{"a":1}', '{"a":{"what":"x","from":-1}}', '{"a":{}}', '{"a":{"what":"x","when":1}}', '{"a":{"what":"x","missed":-1}}', "{} {}" } do
      assert.not_equal(0, C.mp_jobplan_load(plan, text, #text, err), text)
    end
    assert.equal(0, C.mp_jobplan_load(plan, "{}", 2, err))
  end)
end)
