--- core/base/cron.c: what it takes and refuses; next and last against walking minute by minute, over changes of the clocks.
local C, ffi = require "spec.support.ffi"("core/base/cron.h")

local function parse(text)
  local c, err = ffi.new "struct mp_cron", ffi.new "struct mp_err"
  if C.mp_cron_parse(c, text, err) < 0 then
    return nil, ffi.string(err.message)
  end
  return c
end

local function zone(name)
  local out, err = ffi.new "struct mp_tz *[1]", ffi.new "struct mp_err"
  assert(C.mp_tz_open(out, name, err) == 0, ffi.string(err.message))
  return ffi.gc(out[0], C.mp_tz_free)
end

local out = ffi.new "int64_t[1]"
local function next_tick(c, tz, after)
  return C.mp_cron_next(c, tz, after, out) and tonumber(out[0]) or nil
end
local function last_tick(c, tz, at)
  return C.mp_cron_last(c, tz, at, out) and tonumber(out[0]) or nil
end

local function utc(text)
  local y, mo, d, h, mi = text:match "^(%d+)%-(%d+)%-(%d+) (%d+):(%d+)$"
  local l = ffi.new "struct mp_civil"
  l.year, l.month, l.day, l.hour, l.minute = tonumber(y), tonumber(mo), tonumber(d), tonumber(h), tonumber(mi)
  return tonumber(C.mp_tz_unix(nil, l, nil))
end

local function shown(t)
  return t and os.date("!%Y-%m-%d %H:%M", t)
end

local zones = { "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo" }
local has_zones = io.open "/usr/share/zoneinfo/Europe/Berlin"
local zones_it = has_zones and it or function(name)
  it(name, function()
    pending "the package tzdata is not here"
  end)
end

describe("cron", function()
  it("takes crontab's five fields", function()
    local from = utc "2026-11-24 12:47" -- a Tuesday
    for text, want in pairs {
      ["* * * * *"] = "2026-11-24 12:48",
      ["0 8 * * 1-5"] = "2026-11-25 08:00",
      ["0 8 * * mon-fri"] = "2026-11-25 08:00",
      ["0 8 * * MON"] = "2026-11-30 08:00",
      ["*/15 * * * *"] = "2026-11-24 13:00",
      ["7-59/20 * * * *"] = "2026-11-24 13:07",
      ["5,50 12 * * *"] = "2026-11-24 12:50",
      ["0 0 1 jan *"] = "2027-01-01 00:00",
      ["0 0 1 jan-mar *"] = "2027-01-01 00:00",
      ["0 0 29 2 *"] = "2028-02-29 00:00",
      ["0 0 * * 7"] = "2026-11-29 00:00",
      ["0 0 * * 0"] = "2026-11-29 00:00",
      ["0 0 * * fri-sun"] = "2026-11-27 00:00",
      ["0 0 * * 6-7"] = "2026-11-28 00:00",
      ["0 0 13 * 5"] = "2026-11-27 00:00", -- both restricted: a Friday, or a 13th
      ["0 0 */13 * 5"] = "2026-11-27 00:00", -- "*" first: a Friday that is a 1st, 14th or 27th
      ["30 23 31 12 *"] = "2026-12-31 23:30",
      ["@hourly"] = "2026-11-24 13:00",
      ["@daily"] = "2026-11-25 00:00",
      ["@midnight"] = "2026-11-25 00:00",
      ["@weekly"] = "2026-11-29 00:00",
      ["@monthly"] = "2026-12-01 00:00",
      ["@Yearly"] = "2027-01-01 00:00",
      ["@annually"] = "2027-01-01 00:00",
      ["  0\t8  * * *  "] = "2026-11-25 08:00",
    } do
      assert.equal(want, shown(next_tick(assert(parse(text)), nil, from)), text)
    end
  end)

  it("names what is wrong", function()
    for text, want in pairs {
      [""] = "five fields are needed (minute, hour, day of month, month, weekday), not 0",
      ["* * * *"] = "five fields are needed (minute, hour, day of month, month, weekday), not 4",
      ["0 * * * * *"] = "five fields are needed (minute, hour, day of month, month, weekday), not 6",
      ["60 * * * *"] = "minute '60': out of range (0 to 59)",
      ["0 24 * * *"] = "hour '24': out of range (0 to 23)",
      ["0 0 0 * *"] = "day of month '0': out of range (1 to 31)",
      ["0 0 32 * *"] = "day of month '32': out of range (1 to 31)",
      ["0 0 * 13 *"] = "month '13': out of range (1 to 12)",
      ["0 0 * 0 *"] = "month '0': out of range (1 to 12)",
      ["0 0 * * 8"] = "weekday '8': out of range (0 to 7)",
      ["99999999999 * * * *"] = "minute '99999999999': not understood",
      ["x * * * *"] = "minute 'x': not a number",
      ["-1 * * * *"] = "minute '-1': not a number",
      ["? * * * *"] = "minute '?': not a number",
      ["0 0 L * *"] = "day of month 'L': not a number",
      ["0 0 * foo *"] = "month 'foo': neither a number nor a name",
      ["0 0 * * monday"] = "weekday 'monday': neither a number nor a name",
      ["0 0 * * 1#2"] = "weekday '1#2': not understood",
      ["5- * * * *"] = "minute '5-': the range has no end",
      ["9-5 * * * *"] = "minute '9-5': the range ends before it begins",
      ["*/0 * * * *"] = "minute '*/0': a step is a number from 1 on",
      ["*/ * * * *"] = "minute '*/': a step is a number from 1 on",
      ["*/x * * * *"] = "minute '*/x': a step is a number from 1 on",
      ["5/10 * * * *"] = "minute '5/10': a step needs a range or '*' before it",
      ["1,,2 * * * *"] = "minute: a value is missing beside a comma",
      [",1 * * * *"] = "minute: a value is missing beside a comma",
      ["1, * * * *"] = "minute: a value is missing beside a comma",
      ["*5 * * * *"] = "minute '*5': not understood",
      ["0 0 31 2 *"] = "day of month '31' never comes in month '2'",
      ["0 0 30,31 feb *"] = "day of month '30,31' never comes in month 'feb'",
      ["0 0 31 4,6,9,11 *"] = "day of month '31' never comes in month '4,6,9,11'",
      ["@often"] = "'@often' is unknown: there are @hourly, @daily, @weekly, @monthly and @yearly",
      ["@reboot"] = "'@reboot' is unknown: there are @hourly, @daily, @weekly, @monthly and @yearly",
      [("1,"):rep(150) .. "1 * * * *"] = "longer than 200 bytes",
    } do
      local c, message = parse(text)
      assert.is_nil(c, text)
      assert.equal(want, message)
    end
    assert.truthy(parse "0 0 31 2 1", "a weekday suffices")
  end)

  it("finds what comes rarely", function()
    local feb = assert(parse "0 0 29 2 *")
    assert.equal("2104-02-29 00:00", shown(next_tick(feb, nil, utc "2096-02-29 00:00")))
    assert.equal("2096-02-29 00:00", shown(last_tick(feb, nil, utc "2104-02-28 23:59")))
    local monday = assert(parse "0 0 */31 2 1") -- a Monday that is 1 February
    assert.equal("2038-02-01 00:00", shown(next_tick(monday, nil, utc "2027-02-01 00:00")))
    assert.equal("2027-02-01 00:00", shown(last_tick(monday, nil, utc "2038-01-31 23:59")))
  end)

  it("looks strictly behind, and back from now on", function()
    local c, t = assert(parse "0 8 * * *"), utc "2026-11-24 08:00"
    assert.equal(t, next_tick(c, nil, t - 1))
    assert.equal(t + 86400, next_tick(c, nil, t))
    assert.equal(t, last_tick(c, nil, t))
    assert.equal(t - 86400, last_tick(c, nil, t - 1))
  end)

  zones_it("has every wanted local time once when clocks change", function()
    local berlin = zone "Europe/Berlin"
    local function ticks(text, from, to)
      local c, list, t = assert(parse(text)), {}, utc(from) - 1
      while true do
        t = next_tick(c, berlin, t)
        if not t or t > utc(to) then
          return list
        end
        list[#list + 1] = shown(t):sub(6)
      end
    end
    assert.same({ "03-28 01:30", "03-29 01:00", "03-30 00:30" }, ticks("30 2 * * *", "2026-03-28 00:00", "2026-03-30 12:00"))
    assert.same({ "10-24 00:30", "10-25 00:30", "10-26 01:30" }, ticks("30 2 * * *", "2026-10-24 00:00", "2026-10-26 12:00"))
    assert.same({ "03-29 00:30", "03-29 01:00", "03-29 01:30" }, ticks("*/30 1-3 * * *", "2026-03-29 00:10", "2026-03-29 01:50"))
    assert.same({ "10-25 00:00", "10-25 00:30", "10-25 02:00" }, ticks("*/30 2-3 * * *", "2026-10-24 20:00", "2026-10-25 02:10"))
    assert.equal(23, #ticks("0 * * * *", "2026-03-28 23:00", "2026-03-29 21:59")) -- a day of 23 hours
    assert.equal(24, #ticks("0 * * * *", "2026-10-24 22:00", "2026-10-25 22:59")) -- of 25: the double hour counts once
  end)

  --- Random fields, as text and as what they mean.
  local function random_field(least, most)
    local kind = math.random(5)
    if kind <= 2 then
      return "*", function()
        return true
      end
    elseif kind == 3 then
      local step = math.random(1, 7)
      return "*/" .. step, function(v)
        return (v - least) % step == 0
      end
    elseif kind == 4 then
      local a, b = math.random(least, most), math.random(least, most)
      a, b = math.min(a, b), math.max(a, b)
      return a .. "-" .. b, function(v)
        return v >= a and v <= b
      end
    end
    local a, b = math.random(least, most), math.random(least, most)
    return a .. "," .. b, function(v)
      return v == a or v == b
    end
  end

  --- Local minutes (as if UTC, in minutes since 1970) of every minute of a window.
  local function walk(tz, from, days)
    local w = { from = from, n = days * 1440, local_minute = {} }
    for i = 0, w.n - 1 do
      local t = from + i * 60
      w.local_minute[i] = math.floor((t + C.mp_tz_offset(tz, t)) / 60)
    end
    return w
  end

  local function against_walk(tz, w, tries)
    local date = {}
    for _ = 1, tries do
      local tm, m = random_field(0, 59)
      local th, h = random_field(0, 23)
      local td, d = random_field(1, 31)
      local tM, M = random_field(1, 12)
      local tw, wd = random_field(0, 6)
      local text = table.concat({ tm, th, td, tM, tw }, " ")
      local c = parse(text)
      if c then
        local either = not (td:find "^%*" or tw:find "^%*")
        local function wanted(minute)
          if not (m(minute % 60) and h(math.floor(minute / 60) % 24)) then
            return false
          end
          local day = math.floor(minute / 1440)
          date[day] = date[day] or os.date("!*t", day * 86400)
          local at = date[day]
          if not M(at.month) then
            return false
          end
          if either then
            return d(at.day) or wd(at.wday - 1)
          end
          return d(at.day) and wd(at.wday - 1)
        end
        -- A tick is where the local clock reaches a wanted minute that it had not reached before.
        local ticks, reached = {}, w.local_minute[0] - 1
        for i = 0, w.n - 1 do
          local now = w.local_minute[i]
          while reached < now do
            reached = reached + 1
            if wanted(reached) and ticks[#ticks] ~= w.from + i * 60 then
              ticks[#ticks + 1] = w.from + i * 60
            end
          end
        end
        local t, last = w.from - 1, w.from + w.n * 60 - 1
        for i = 1, #ticks do
          t = next_tick(c, tz, t)
          assert.equal(ticks[i], t, text)
        end
        t = next_tick(c, tz, t)
        assert.truthy(not t or t > last, text)
        for i = #ticks, 1, -1 do
          last = last_tick(c, tz, last)
          assert.equal(ticks[i], last, text)
          last = last - 1
        end
        for _ = 1, 20 do -- from anywhere
          local at = w.from + math.random(0, w.n * 60 - 1)
          local before, behind
          for i = 1, #ticks do
            before = ticks[i] <= at and ticks[i] or before
            behind = behind or ticks[i] > at and ticks[i] or nil
          end
          if before then
            assert.equal(before, last_tick(c, tz, at), text .. " at " .. at)
          end
          if behind then
            assert.equal(behind, next_tick(c, tz, at), text .. " at " .. at)
          end
        end
      end
    end
  end

  it("agrees with walking minute by minute in UTC", function()
    math.randomseed(42)
    against_walk(nil, walk(nil, utc "2027-12-20 00:00", 75), 10)
  end)

  for _, name in ipairs(zones) do
    zones_it("agrees with walking minute by minute in " .. name, function()
      math.randomseed(#name)
      local tz = zone(name)
      for _, from in ipairs { "2026-03-03 00:00", "2026-10-01 00:00", "2061-03-05 00:00" } do
        against_walk(tz, walk(tz, utc(from), 34), 5)
      end
    end)
  end
end)
