--- core/gateway/snapshot.h: generations in the state directory, whole or not at all, bounded; what is damaged is an error that names the file.
local script = require "spec.support.script"
local C, ffi = require "spec.support.ffi"("core/gateway/snapshot.h", "core/script/source.h", "core/base/err.h")

local function write(path, text)
  local f = assert(io.open(path, "wb"))
  f:write(text)
  f:close()
end

local function read(path)
  local f = io.open(path, "rb")
  local text = f and f:read "*a"
  if f then
    f:close()
  end
  return text
end

describe("snapshots", function()
  local dir, sources, err

  before_each(function()
    dir = script.folder { ["conf/moonpool.lua"] = "return 1", ["state/lock"] = "" }
    err = ffi.new "struct mp_err"
    local out = ffi.new "struct mp_sources *[1]"
    assert.equal(0, C.mp_sources_open(out, dir .. "/conf/moonpool.lua", err))
    sources = out[0]
  end)
  after_each(function()
    C.mp_sources_free(sources)
    script.remove(dir)
  end)

  local function save(number)
    local info = ffi.new("struct mp_snapshot", { number = number, since = 1000 + number, models = 2, endpoints = 3 })
    C.mp_sources_hash(sources, info.hash)
    assert.equal(0, C.mp_snapshot_save(dir .. "/state", info, sources, err), ffi.string(err.message))
  end

  local function list(conf)
    local out, last, numbers = ffi.new "struct mp_snapshot[64]", ffi.new "uint64_t[1]", {}
    local n = C.mp_snapshot_list(dir .. "/state", conf or dir .. "/conf/moonpool.lua", out, 64, last)
    for i = 0, n - 1 do
      numbers[#numbers + 1] = tonumber(out[i].number)
    end
    return numbers, tonumber(last[0]), out[0]
  end

  local function load(number)
    local out, info = ffi.new "struct mp_sources *[1]", ffi.new "struct mp_snapshot"
    local rc = C.mp_snapshot_load(dir .. "/state", number, info, out, err)
    if rc < 0 then
      return nil, ffi.string(err.message)
    end
    local text = ffi.string(C.mp_sources_config(out[0]).data)
    C.mp_sources_free(out[0])
    return text, info
  end

  it("come back as they were saved", function()
    save(7)
    local text, info = load(7)
    assert.equal("return 1", text)
    assert.same({ 7, 1007, 2, 3 }, { tonumber(info.number), tonumber(info.since), info.models, info.endpoints })
    local numbers, last, first = list()
    assert.same({ 7 }, numbers)
    assert.equal(7, last)
    assert.equal(1007, tonumber(first.since))
    assert.is_nil(read(dir .. "/state/generations/7.new"))
  end)

  it("are listed newest first, those of this configuration only", function()
    for _, n in ipairs { 2, 10, 9 } do
      save(n)
    end
    write(dir .. "/state/generations/11", "not one")
    write(dir .. "/state/generations/x", "not one")
    local numbers, last = list()
    assert.same({ 10, 9, 2 }, numbers)
    assert.equal(11, last)
    assert.same({}, (list "other.lua"))
  end)

  it("are bounded, but the active one stays", function()
    for n = 1, 30 do
      save(n)
    end
    C.mp_snapshot_prune(dir .. "/state", 3)
    local numbers = list()
    assert.equal(21, #numbers)
    assert.same({ 30, 11, 3 }, { numbers[1], numbers[20], numbers[21] })
  end)

  it("that are damaged or absent are errors that name them", function()
    local text, why = load(5)
    assert.is_nil(text)
    assert.matches("^there is no generation 5 %(.*/state/generations/5%)$", why)
    save(5)
    local whole = read(dir .. "/state/generations/5")
    for n = 0, #whole - 1 do
      write(dir .. "/state/generations/5", whole:sub(1, n))
      text, why = load(5)
      assert.is_nil(text, n)
      assert.matches("/state/generations/5", why)
    end
    for n = 1, #whole do
      write(dir .. "/state/generations/5", whole:sub(1, n - 1) .. string.char((whole:byte(n) + 1) % 256) .. whole:sub(n + 1))
      load(5) -- whatever it gives, it reads no more than there is
    end
  end)

  it("name the active one, or say that there is none", function()
    local number = ffi.new "uint64_t[1]"
    local function active()
      local rc = C.mp_snapshot_get_active(dir .. "/state", number, err)
      return rc == 0 and tonumber(number[0]) or ffi.string(err.message)
    end
    assert.matches("^no generation is active: there is no .*/state/active$", active())
    assert.equal(0, C.mp_snapshot_set_active(dir .. "/state", 12, err))
    assert.equal(12, active())
    assert.equal("12\n", read(dir .. "/state/active"))
    for _, text in ipairs { "", "12", "0\n", "-1\n", "x\n", "1 \n", "1\n\n" } do
      write(dir .. "/state/active", text)
      assert.matches("/state/active does not name a generation$", active())
    end
    local there = ffi.new("struct mp_snapshot")
    assert.is_true(C.mp_snapshot_save(dir .. "/state/lock", there, sources, err) < 0)
    assert.matches("^cannot make .*/state/lock/generations: Not a directory", ffi.string(err.message))
  end)
end)
