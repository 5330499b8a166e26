--- core/base/tz.c: offsets as the system's `date` says them, both changes of clocks, the rule behind the table, hostile files.
local C, ffi = require "spec.support.ffi"("core/base/tz.h")

ffi.cdef "int setenv(const char *, const char *, int); int unsetenv(const char *);"

local function open(name)
  local out, err = ffi.new "struct mp_tz *[1]", ffi.new "struct mp_err"
  local rc = C.mp_tz_open(out, name, err)
  if rc < 0 then
    return nil, ffi.string(err.message), tonumber(rc)
  end
  return ffi.gc(out[0], C.mp_tz_free)
end

local function offset(tz, t)
  return C.mp_tz_offset(tz, t)
end

--- "2026-03-29 02:30:00" → Unix seconds in tz, and whether it was skipped.
local function moment(tz, text)
  local l, skipped = ffi.new "struct mp_civil", ffi.new "int[1]"
  local y, mo, d, h, mi, s = text:match "^(%-?%d+)%-(%d+)%-(%d+) (%d+):(%d+):(%d+)$"
  l.year, l.month, l.day, l.hour, l.minute, l.second = tonumber(y), tonumber(mo), tonumber(d), tonumber(h), tonumber(mi), tonumber(s)
  return tonumber(C.mp_tz_unix(tz, l, skipped)), skipped[0] == 1
end

local function civil(tz, t)
  local l = ffi.new "struct mp_civil"
  C.mp_tz_civil(tz, t, l)
  return ("%d-%02d-%02d %02d:%02d:%02d"):format(tonumber(l.year), l.month, l.day, l.hour, l.minute, l.second), l.weekday
end

local has_zones = io.open "/usr/share/zoneinfo/Europe/Berlin"
local zones_it = has_zones and it or function(name)
  it(name, function()
    pending "the package tzdata is not here"
  end)
end

--- A TZif file of our own in a folder that TZDIR names.
local folder
local function zone_file(name, bytes)
  local f = assert(io.open(folder .. "/" .. name, "wb"))
  f:write(bytes)
  f:close()
end

local function u32(v)
  v = v % 4294967296
  return string.char(math.floor(v / 16777216), math.floor(v / 65536) % 256, math.floor(v / 256) % 256, v % 256)
end

local function i64(v)
  return u32(math.floor(v / 4294967296)) .. u32(v)
end

--- t: version, times, kinds (0-based), offsets, leap, footer, and cut: how many bytes of it.
local function tzif(t)
  local function header(n_time, n_type)
    return "TZif" .. (t.version or "2") .. ("\0"):rep(15) .. u32(0) .. u32(0) .. u32(t.leap or 0) .. u32(n_time) .. u32(n_type) .. u32(4)
  end
  local function block(size)
    local s = ""
    for _, at in ipairs(t.times or {}) do
      s = s .. (size == 8 and i64(at) or u32(at))
    end
    s = s .. string.char(unpack(t.kinds or {}))
    for _, o in ipairs(t.offsets or { 3600 }) do
      s = s .. u32(o) .. "\0\0"
    end
    return s .. "XXX\0" .. ("\0"):rep((t.leap or 0) * (size + 4))
  end
  if t.version == "\0" then
    return header(#(t.times or {}), #(t.offsets or { 3600 })) .. block(4)
  end
  local first = "TZif2" .. ("\0"):rep(15) .. u32(0):rep(4) .. u32(1) .. u32(4) .. u32(0) .. "\0\0" .. "XXX\0"
  return first .. header(#(t.times or {}), t.types or #(t.offsets or { 3600 })) .. block(8) .. (t.footer or "\n\n")
end

describe("time zones", function()
  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder) == 0)
  end)
  teardown(function()
    os.execute("rm -rf " .. folder)
  end)
  after_each(function()
    ffi.C.unsetenv "TZDIR"
  end)

  it("knows UTC without any file", function()
    ffi.C.setenv("TZDIR", folder, 1)
    for _, name in ipairs { "UTC", "", "Etc/UTC" } do
      local tz = assert(open(name))
      assert.equal(0, offset(tz, 1e9))
    end
    assert.equal("UTC", ffi.string(C.mp_tz_name(nil)))
    assert.equal(0, offset(nil, 1e9))
    local text, weekday = civil(nil, 951827696)
    assert.equal("2000-02-29 12:34:56", text)
    assert.equal(2, weekday)
    assert.equal(951827696, (moment(nil, "2000-02-29 12:34:56")))
    assert.equal("-1-12-31 23:59:59", (civil(nil, -62167219201)))
  end)

  it("goes there and back over 10,000 years", function()
    math.randomseed(7)
    for _ = 1, 2000 do
      local t = math.floor((math.random() - 0.5) * 3.1e11)
      assert.equal(t, (moment(nil, (civil(nil, t)))))
    end
  end)

  zones_it("agrees with date over a century, and by the rule in far years", function()
    for _, name in ipairs {
      "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Europe/Dublin", "Africa/Casablanca", "Asia/Kathmandu",
      "America/Sao_Paulo", "Pacific/Apia", "America/St_Johns", "Antarctica/Troll", "Etc/GMT+5", "Asia/Gaza", "Pacific/Chatham",
    } do
      local tz, list, path = assert(open(name)), {}, folder .. "/times"
      math.randomseed(#name)
      for i = 1, 400 do
        list[i] = "@" .. math.floor(-2.2e9 + math.random() * 6.4e9)
      end
      for year = 1, 60 do -- every month of some years behind every table
        list[#list + 1] = "@" .. math.floor((2038 - 1970 + year / 12) * 31556952)
        list[#list + 1] = "@" .. math.floor((2400 - 1970 + year / 12) * 31556952)
      end
      local f = assert(io.open(path, "w"))
      f:write(table.concat(list, "\n"), "\n")
      f:close()
      local pipe = assert(io.popen(("TZ=%s date -f %s '+%%s %%::z'"):format(name, path)))
      local n = 0
      for line in pipe:lines() do
        local t, sign, h, m, s = line:match "^(%-?%d+) ([+-])(%d+):(%d+):(%d+)$"
        local want = tonumber(sign .. "1") * (h * 3600 + m * 60 + s)
        n = n + 1
        assert.equal(want, offset(tz, tonumber(t)), name .. " at " .. t)
      end
      pipe:close()
      assert.equal(#list, n)
    end
  end)

  zones_it("changes clocks both ways, by the second", function()
    local rows = { -- zone, the moment, offset before and after
      { "Europe/Berlin", 1774746000, 3600, 7200 }, -- 2026-03-29 01:00Z
      { "Europe/Berlin", 1792890000, 7200, 3600 }, -- 2026-10-25 01:00Z
      { "America/New_York", 1772953200, -18000, -14400 }, -- 2026-03-08 07:00Z
      { "America/New_York", 1793512800, -14400, -18000 }, -- 2026-11-01 06:00Z
      { "Australia/Lord_Howe", 1775314800, 39600, 37800 }, -- 2026-04-05 02:00 +11
      { "Australia/Lord_Howe", 1791041400, 37800, 39600 }, -- 2026-10-04 02:00 +10:30
      { "Africa/Cairo", 1714082400, 7200, 10800 }, -- 2024-04-26 00:00 +02
      { "Africa/Cairo", 1730408400, 10800, 7200 }, -- 2024-10-31 24:00 +03
      { "Europe/Berlin", 4109878800, 3600, 7200 }, -- 2100-03-28 01:00Z: behind the table
    }
    for _, r in ipairs(rows) do
      local tz = assert(open(r[1]))
      assert.same({ r[3], r[4] }, { offset(tz, r[2] - 1), offset(tz, r[2]) }, r[1] .. " " .. r[2])
    end
  end)

  zones_it("says when a local time is: the first of two, the jump for one that is skipped", function()
    local rows = {
      { "Europe/Berlin", "2026-03-29 01:59:59", 1774745999, false },
      { "Europe/Berlin", "2026-03-29 02:00:00", 1774746000, true },
      { "Europe/Berlin", "2026-03-29 02:30:00", 1774746000, true },
      { "Europe/Berlin", "2026-03-29 03:00:00", 1774746000, false },
      { "Europe/Berlin", "2026-10-25 02:30:00", 1792888200, false }, -- still +2
      { "Europe/Berlin", "2026-10-25 03:00:00", 1792893600, false },
      { "America/New_York", "2026-11-01 01:30:00", 1793511000, false },
      { "Australia/Lord_Howe", "2026-10-04 02:15:00", 1791041400, true },
      { "Australia/Lord_Howe", "2026-10-04 02:30:00", 1791041400, false },
      { "Australia/Lord_Howe", "2026-04-05 01:45:00", 1775313900, false },
      { "Pacific/Apia", "2011-12-30 12:00:00", 1325239200, true }, -- a day that never was
    }
    for _, r in ipairs(rows) do
      local at, skipped = moment(assert(open(r[1])), r[2])
      assert.same({ r[3], r[4] }, { at, skipped }, r[1] .. " " .. r[2])
    end
  end)

  zones_it("names what cannot be", function()
    local _, message, rc = open "Europe/Berln"
    assert.equal(ffi.C.MP_ENOENT, rc)
    assert.equal('there is no time zone \'Europe/Berln\' in /usr/share/zoneinfo: names are like "Europe/Berlin", "America/New_York", "UTC"', message)
    for _, name in ipairs { "../passwd", "/etc/passwd", "Europe/../x", "a b", ("x"):rep(300), "Europe/Berlin\n" } do
      _, message, rc = open(name)
      assert.equal(ffi.C.MP_EINVAL, rc)
      assert.matches("is no name of a time zone: names are like", message)
    end
    _, message, rc = open "zone.tab"
    assert.equal(ffi.C.MP_EFORMAT, rc)
    assert.matches("^time zone 'zone.tab': /usr/share/zoneinfo/zone.tab cannot be used: it is no TZif file", message)
    _, message, rc = open "Europe"
    assert.equal(ffi.C.MP_EFORMAT, rc)
    assert.matches("it is no file of fitting size", message)
  end)

  it("says so when the system has no zones at all", function()
    ffi.C.setenv("TZDIR", folder .. "/none", 1)
    local _, message, rc = open "Europe/Berlin"
    assert.equal(ffi.C.MP_ENOENT, rc)
    assert.matches("this system has none %(there is no .*/none; on Debian the package tzdata brings it%)", message)
  end)

  it("reads every form of the rule", function()
    ffi.C.setenv("TZDIR", folder, 1)
    local rows = { -- footer, a moment, the offset
      { "<-03>3", 0, -10800 },
      { "<+1245>-12:45<+1345>,M9.5.0/2:45,M4.1.0/3:45", 1767225600, 49500 }, -- 2026-01-01
      { "IST-1GMT0,M10.5.0,M3.5.0/1", 1767225600, 0 }, -- winter is the exception
      { "IST-1GMT0,M10.5.0,M3.5.0/1", 1782864000, 3600 }, -- 2026-07-01
      { "XXX0YYY,J60,J300", 1772323200 + 7200 - 1, 0 }, -- 1 March is J60 in every year
      { "XXX0YYY,J60,J300", 1772323200 + 7200, 3600 },
      { "XXX0YYY,J60,J300", 1835481600 + 7200, 3600 }, -- 2028-03-01, after a 29 February
      { "XXX0YYY,J60,J300", 1835481600 + 7200 - 1, 0 },
      { "XXX0YYY,59,299", 1835395200 + 7200, 3600 }, -- 2028-02-29 is day 59
      { "EST5EDT,0/0,J365/25", 1767225600 + 5 * 3600, -14400 }, -- daylight saving all year
      { "EST5EDT,0/0,J365/25", 1780000000, -14400 },
      { "XXX3<-02>,M3.4.4/50,M10.4.4/50", 1774662000 + 3 * 3600 - 1 - 10800, -10800 },
      { "XXX3<-02>2,M3.5.0/-2,M10.5.0/-1", 1774746000, -7200 },
    }
    for _, r in ipairs(rows) do
      zone_file("rule", tzif { offsets = { 0 }, footer = "\n" .. r[1] .. "\n" })
      assert.equal(r[3], offset(assert(open "rule"), r[2]), r[1] .. " at " .. r[2])
    end
    for _, footer in ipairs {
      "", "\n", "\nX", "\n1\n", "\nCET\n", "\nCET-1CEST\n", "\nCET-1CEST,M3.5.0\n", "\nCET-1CEST,M13.5.0,M10.5.0\n", "\nCET-1CEST,M3.6.0,M10.5.0\n",
      "\nCET-1CEST,M3.5.7,M10.5.0\n", "\nCET-25\n", "\nCET-1CEST,M3.5.0/168,M10.5.0\n", "\nCET-1CEST,J0,J5\n", "\nCET-1CEST,366,5\n",
      "\nCET-1CEST,M3.5.0,M10.5.0 \n", "\n<CET-1\n", "\nCET-1:60\n", "\n" .. ("A"):rep(300) .. "1\n", "\nCET99999999999999\n",
    } do
      zone_file("rule", tzif { footer = footer })
      local tz, message = open "rule"
      assert.is_nil(tz, footer)
      assert.matches("footer", message)
    end
  end)

  it("takes a table alone, of version 1 too", function()
    ffi.C.setenv("TZDIR", folder, 1)
    for _, version in ipairs { "\0", "2", "3", "4" } do
      zone_file("plain", tzif { version = version, times = { -1000, 1000 }, kinds = { 1, 0 }, offsets = { 60, -60 } })
      local tz = assert(open "plain")
      assert.same({ 60, 60, -60, -60, 60, 60 }, {
        offset(tz, -1e12), offset(tz, -1001), offset(tz, -1000), offset(tz, 999), offset(tz, 1000), offset(tz, 1e12),
      })
    end
    zone_file("plain", tzif { times = { -1e15, 1e15 }, kinds = { 1, 0 }, offsets = { 60, -60 } })
    assert.equal(-60, offset(assert(open "plain"), 0))
  end)

  it("believes no count of a file", function()
    ffi.C.setenv("TZDIR", folder, 1)
    local function refused(bytes, why)
      zone_file("bad", bytes)
      local tz, message, rc = open "bad"
      assert.is_nil(tz)
      assert.equal(ffi.C.MP_EFORMAT, rc)
      assert.matches(why, message)
    end
    refused("TZif2" .. ("\0"):rep(15) .. u32(4294967295):rep(6), "it is cut short")
    refused(tzif { version = "\0" }:gsub("^(TZif" .. "%z" .. ("."):rep(15) .. ("."):rep(12) .. ")....", "%1\255\255\255\255"), "it is cut short")
    refused(tzif { offsets = {} , types = 0 }, "its number of types is wrong")
    refused(tzif { times = { 1 }, kinds = { 1 } }, "a change names a type that it does not have")
    refused(tzif { times = { 2, 2 }, kinds = { 0, 0 } }, "its changes are out of order")
    refused(tzif { times = { 3, 2 }, kinds = { 0, 0 } }, "its changes are out of order")
    refused(tzif { offsets = { 93600 } }, "an offset is out of range")
    refused(tzif { offsets = { -90000 } }, "an offset is out of range")
    refused(tzif { leap = 1 }, "it counts leap seconds")
    refused("", "it is no file of fitting size")
    local good = tzif { times = { -1000, 1000 }, kinds = { 1, 0 }, offsets = { 60, -60 }, footer = "\nCET-1CEST,M3.5.0,M10.5.0/3\n" }
    for n = 1, #good - 1 do
      zone_file("cut", good:sub(1, n))
      assert.is_nil((open "cut"), n)
    end
    math.randomseed(11)
    for _ = 1, 3000 do -- whatever it says, an answer or an error
      local i = math.random(#good)
      zone_file("bent", good:sub(1, i - 1) .. string.char(math.random(0, 255)) .. good:sub(i + 1))
      local tz = open "bent"
      if tz then
        offset(tz, math.random() * 1e10)
        moment(tz, "2026-03-29 02:30:00")
      end
    end
  end)
end)
