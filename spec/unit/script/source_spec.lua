-- luacheck: no max line length (cases and expected texts stand on one line each)
--- core/script/source.c: the snapshot of what a configuration read.
local script = require "spec.support.script"
local C, ffi = script.C, script.ffi

local dir
before_each(function()
  dir = script.folder { ["conf/a.lua"] = "return 1", ["conf/lib/b.lua"] = "b\0c", ["conf/empty"] = "" }
end)
after_each(function()
  script.remove(dir)
end)

local function open(path)
  local out, err = ffi.new "struct mp_sources *[1]", ffi.new "struct mp_err"
  local rc = C.mp_sources_open(out, path, err)
  if rc < 0 then
    return nil, ffi.string(err.message)
  end
  return ffi.gc(out[0], C.mp_sources_free)
end

local function read(s, path, fn)
  local out, err = ffi.new "const struct mp_source *[1]", ffi.new "struct mp_err"
  local rc = (fn or C.mp_sources_read)(s, path, out, err)
  if rc < 0 then
    return nil, ffi.string(err.message)
  end
  return out[0] ~= nil and ffi.string(out[0].data, out[0].n) or false
end

local function hash(s)
  local h = ffi.new "unsigned char[32]"
  C.mp_sources_hash(s, h)
  return ffi.string(h, 32)
end

local function save(s)
  local b = ffi.new "struct mp_buf"
  C.mp_sources_save(s, b)
  return script.text(b)
end

local function load(bytes)
  local out, err = ffi.new "struct mp_sources *[1]", ffi.new "struct mp_err"
  local rc = C.mp_sources_load(out, bytes, #bytes, err)
  if rc < 0 then
    return nil, ffi.string(err.message)
  end
  return ffi.gc(out[0], C.mp_sources_free)
end

describe("a snapshot of sources", function()
  it("reads each file once", function()
    local s = open(dir .. "/conf/a.lua")
    assert.equal(dir .. "/conf", ffi.string(C.mp_sources_folder(s)))
    assert.equal("b\0c", read(s, "lib/b.lua"))
    assert.equal("", read(s, "empty"))
    local f = io.open(dir .. "/conf/lib/b.lua", "wb")
    f:write "changed"
    f:close()
    assert.equal("b\0c", read(s, "lib/b.lua"))
    assert.equal("b\0c", read(s, dir .. "/conf/lib/b.lua"))
    assert.equal("return 1", ffi.string(C.mp_sources_by_name(s, dir .. "/conf/a.lua").data))
    assert.is_true(C.mp_sources_by_name(s, "none") == nil)
  end)

  it("remembers what was not there", function()
    local s = open(dir .. "/conf/a.lua")
    assert.equal(false, read(s, "later.lua", C.mp_sources_find))
    io.open(dir .. "/conf/later.lua", "w"):close()
    assert.equal(false, read(s, "later.lua", C.mp_sources_find))
    assert.same({ nil, "cannot open " .. dir .. "/conf/later.lua: no such file" }, { read(s, "later.lua") })
  end)

  it("says what it cannot read", function()
    assert.same({ nil, "no configuration " .. dir .. "/x.lua: no such file" }, { open(dir .. "/x.lua") })
    assert.same({ nil, "cannot read " .. dir .. "/conf: not a regular file" }, { open(dir .. "/conf") })
    local s = open(dir .. "/conf/a.lua")
    assert.same({ nil, "cannot read " .. dir .. "/conf/lib: not a regular file" }, { read(s, "lib") })
  end)

  it("looks at nothing any more when it is frozen", function()
    local s = open(dir .. "/conf/a.lua")
    C.mp_sources_freeze(s)
    assert.same({ nil, dir .. "/conf/lib/b.lua was not read when the configuration was checked" }, { read(s, "lib/b.lua") })
    assert.equal("return 1", read(s, "a.lua"))
  end)

  it("comes back from its bytes", function()
    local s = open(dir .. "/conf/a.lua")
    read(s, "lib/b.lua")
    read(s, "none", C.mp_sources_find)
    local again = load(save(s))
    os.remove(dir .. "/conf/lib/b.lua")
    assert.equal("b\0c", read(again, "lib/b.lua"))
    assert.equal(false, read(again, "none", C.mp_sources_find))
    assert.equal(hash(s), hash(again))
    assert.equal(save(s), save(again))
    assert.equal("return 1", ffi.string(C.mp_sources_config(again).data))
    assert.matches("was not read when", select(2, read(again, "empty")))
  end)

  it("has a hash of its contents, whatever the order", function()
    local a, b = open(dir .. "/conf/a.lua"), open(dir .. "/conf/a.lua")
    read(a, "lib/b.lua")
    read(a, "empty")
    read(b, "empty")
    read(b, "lib/b.lua")
    assert.equal(hash(a), hash(b))
    assert.not_equal(hash(a), hash(open(dir .. "/conf/a.lua")))
  end)

  it("does not come back from damaged bytes", function()
    local s = open(dir .. "/conf/a.lua")
    read(s, "lib/b.lua")
    local bytes = save(s)
    for n = 0, #bytes - 1 do
      assert.is_nil((load(bytes:sub(1, n))))
    end
    assert.same({ nil, "a snapshot of sources has bytes behind its end" }, { load(bytes .. "x") })
    local changed = bytes:gsub("return 1", "return 2")
    assert.same({ nil, "a snapshot of sources is damaged: " .. dir .. "/conf/a.lua does not have its hash" }, { load(changed) })
    for i = 1, #bytes, 7 do
      load(bytes:sub(1, i - 1) .. "\255" .. bytes:sub(i + 1)) -- no crash
    end
  end)

  it("builds a generation without the disk", function()
    local files = { ["conf/moonpool.lua"] = 'local mp = require "moonpool"\nlocal n = require "lib.n"\nmp.model "m" { source = "tiny.gguf" }\n'
      .. 'mp.endpoint { route = "GET /n", handle = function() return { n } end }', ["conf/lib/n.lua"] = "return 7", ["conf/tiny.gguf"] = "x" }
    local d = script.folder(files)
    local s = open(d .. "/conf/moonpool.lua")
    local function build(sources, lenient)
      local options = ffi.new("struct mp_generation_options", { workers = 2, number = 3, lenient_files = lenient })
      local problems, out, b = ffi.new "struct mp_problems", ffi.new "struct mp_generation *[1]", ffi.new "struct mp_buf"
      local rc = C.mp_generation_build(out, ffi.gc(sources, nil), options, problems)
      C.mp_problems_print(problems, b)
      C.mp_problems_free(problems)
      local text = script.text(b)
      if rc < 0 then
        C.mp_sources_free(sources)
        return nil, text
      end
      return out[0]
    end
    local g = assert(build(s))
    assert.equal(3, tonumber(C.mp_generation_number(g)))
    local bytes = save(C.mp_generation_sources(g))
    C.mp_generation_free(g)
    script.remove(d)
    local no, text = build(load(bytes))
    assert.is_nil(no)
    assert.matches("no file for 'source'", text)
    g = assert(build(load(bytes), true))
    local m = C.mp_config_model(C.mp_generation_config(g), "m")
    assert.equal("tiny.gguf", ffi.string(m.path))
    C.mp_generation_free(g)
  end)
end)
