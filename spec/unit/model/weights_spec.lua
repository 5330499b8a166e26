--- core/model/weights.c: tensors found and checked before anything happens; streamed whole, in order, in groups of rows. On a device
--- written here, which records what it is told.
local C, ffi = require "spec.support.ffi"("core/model/gguf.h", "core/model/weights.h", "core/base/mem.h",
  "gpu/blocks.h", "gpu/plan.h")
local gguf = require "spec.support.gguf"
jit.off() -- C calls back into Lua below

local path = os.tmpname()
local err = ffi.new "struct mp_err"

teardown(function()
  os.remove(path)
end)

local handle = ffi.cast("struct mp_mem *", 64)

--- A device whose layout is the file's, and which can nothing but size and put. fails: function(what, device) -> code, message for
--- "size" and "put".
local function device(fails)
  local d = { puts = {}, ops = ffi.new "struct mp_device_ops" }
  local kept = {}
  local function set(name, fn)
    kept[name] = ffi.cast(ffi.typeof(d.ops[name]), fn)
    d.ops[name] = kept[name]
  end
  local function failing(what, e)
    local code, message = (fails or function() end)(what, d)
    return code and C.mp_err_set(e, code, "%s", message)
  end
  local function row_bytes(type, columns)
    local row = ffi.new "uint64_t[1]"
    assert(C.mp_type_row_bytes(type, columns, row))
    return tonumber(row[0])
  end
  set("w_size", function(_, w, type, _, bytes, e)
    bytes[0] = row_bytes(type, w.ne[0]) * w.ne[1] + 1 -- odd sizes: places must be aligned all the same
    return failing("size", e) or 0
  end)
  set("w_put", function(mem, off, w, type, row0, rows, src, e)
    assert(mem == handle)
    local row = row_bytes(type, w.ne[0])
    table.insert(d.puts, { name = ffi.string(w.name), row0 = tonumber(row0), rows = tonumber(rows), of = w.ne[1], row = row })
    if d.memory then
      ffi.copy(d.memory + off + row0 * row, src, rows * row)
    end
    return failing("put", e) or 0
  end)
  function d.close()
    for _, callback in pairs(kept) do
      callback:free()
    end
  end
  return d
end

--- A file with these tensors { name, ne, storage, data }, opened, and a plan that wants { name, role, columns, rows }.
local function make(tensors, wanted)
  local g = gguf.new()
  for _, t in ipairs(tensors) do
    g:tensor(t[1], t[2], t[3], t[4])
  end
  g:save(path)
  local file, plan = ffi.new "struct mp_gguf *[1]", ffi.gc(C.mp_plan_new(), C.mp_plan_free)
  assert.equal(0, C.mp_gguf_open(file, path, err))
  for _, w in ipairs(wanted) do
    C.mp_plan_weight(plan, w[1], w[2], w[3], w[4])
  end
  return ffi.gc(file[0], C.mp_gguf_free), plan
end

local function find(file, plan, d)
  local w = ffi.new "struct mp_weights *[1]"
  local rc = C.mp_weights_find(w, file, plan, d.ops, nil, ffi.new "struct mp_limits", err)
  return rc == 0 and ffi.gc(w[0], C.mp_weights_free) or nil, rc, ffi.string(err.message)
end

describe("a plan's weights", function()
  local rows, big = 300, {}
  for i = 1, rows do
    big[i] = ("%08d"):format(i):rep(4096) -- 8192 floats
  end
  big = table.concat(big) -- more than two buffers
  local tensors = {
    { "norm", { 7 }, "F32", ("norm"):rep(7) }, { "unused", { 32 }, "F32" }, { "big", { 8192, rows }, "F32", big },
    { "small", { 32, 3 }, "Q8_0", ("small "):rep(17) },
  }
  local wanted = { { "big", C.MP_W_MATMUL, 8192, rows }, { "norm", C.MP_W_VEC, 7, 1 }, { "small", C.MP_W_BOTH, 32, 3 } }

  it("are placed apart, aligned, and counted", function()
    local file, plan = make(tensors, wanted)
    local d = device()
    local w = assert(find(file, plan, d))
    assert.equal(3, w.n)
    local at = 0
    for i, data in ipairs { #big, 28, 102 } do
      assert.equal(at, tonumber(w.off[i - 1]))
      at = math.ceil((at + data + 1) / 256) * 256
    end
    assert.equal(at, tonumber(w.bytes))
    assert.equal(#big + 28 + 102, tonumber(w.file_bytes))
    assert.same({ 0, 0, 8 }, { w.type[0], w.type[1], w.type[2] })
    assert.equal("big", ffi.string(w.tensor[0].name))
    assert.same({}, d.puts)
    d.close()
  end)

  it("arrive whole, in whole groups of rows, with progress", function()
    local file, plan = make(tensors, wanted)
    local d = device()
    local w = assert(find(file, plan, d))
    d.memory = ffi.new("uint8_t[?]", w.bytes)
    local seen = {}
    local progress = ffi.cast("mp_progress_fn *", function(_, done, total)
      seen[#seen + 1] = tonumber(done)
      return total == w.file_bytes
    end)
    assert.equal(0, C.mp_weights_load(w, file, d.ops, handle, progress, nil, err))
    progress:free()
    assert.is_true(ffi.string(d.memory, #big) == big)
    assert.equal(tensors[1][4], ffi.string(d.memory + w.off[1], 28))
    assert.equal(tensors[4][4], ffi.string(d.memory + w.off[2], 102))
    assert.is_true(#d.puts >= 5) -- never the whole of a large tensor at once
    for _, put in ipairs(d.puts) do
      assert.equal(0, put.row0 % 64)
      assert.is_true(put.rows % 64 == 0 or put.row0 + put.rows == put.of)
      assert.is_true(put.rows * put.row <= 4 * 2 ^ 20)
    end
    assert.equal(#d.puts, #seen)
    for i = 2, #seen do
      assert.is_true(seen[i] > seen[i - 1])
    end
    assert.equal(tonumber(w.file_bytes), seen[#seen])
    d.close()
  end)

  it("stop arriving when loading is cancelled or fails, and why is said", function()
    local file, plan = make(tensors, wanted)
    local function load(fails, progress)
      local d = device(fails)
      local w = assert(find(file, plan, d))
      local callback = progress and ffi.cast("mp_progress_fn *", progress)
      local rc = C.mp_weights_load(w, file, d.ops, handle, callback or nil, nil, err)
      if callback then
        callback:free()
      end
      d.close()
      return rc, ffi.string(err.message), #d.puts
    end
    local calls = 0
    assert.same({ C.MP_ECANCELLED, path .. ": loading was cancelled", 3 }, { load(nil, function()
      calls = calls + 1
      return calls < 3
    end) })
    assert.same({ C.MP_EDEVICE, path .. ": tensor 'big': it broke", 2 }, { load(function(what, d)
      if what == "put" and #d.puts == 2 then
        return C.MP_EDEVICE, "it broke"
      end
    end) })
    C.mp_mem_fail_after(1)
    local rc, message, puts = load()
    C.mp_mem_fail_after(0)
    assert.same({ C.MP_ENOMEM, 0 }, { rc, puts })
    assert.matches(": no memory for a buffer of %d+ bytes$", message)
  end)

  it("are not taken from a file that changed under the loader", function()
    local file, plan = make(tensors, wanted)
    local d = device()
    local w = assert(find(file, plan, d))
    local changed = false
    local progress = ffi.cast("mp_progress_fn *", function()
      if not changed then
        changed = true
        local f = assert(io.open(path, "r+b")) -- in place, the size as it was
        f:write "GGUF"
        f:close()
        assert(os.execute("touch -d 2001-01-01 " .. path) == 0)
      end
      return true
    end)
    local rc = C.mp_weights_load(w, file, d.ops, handle, progress, nil, err)
    progress:free()
    d.close()
    assert.same({ C.MP_EIO, path .. ": the file changed while it was in use" }, { rc, ffi.string(err.message) })
  end)

  it("are refused by name when missing, misshapen, or of a type that the device cannot use", function()
    local function says(code, text, tensors_, wanted_, fails)
      local file, plan = make(tensors_, wanted_)
      local d = device(fails)
      local w, rc, message = find(file, plan, d)
      d.close()
      assert.is_nil(w)
      assert.same({ code, path .. ": tensor 'w': " .. text }, { rc, message })
    end
    local want = { { "w", C.MP_W_MATMUL, 32, 4 } }
    says(C.MP_EFORMAT, "has the shape [32, 5]; the model needs [32, 4]", { { "w", { 32, 5 }, "F32" } }, want)
    says(C.MP_EFORMAT, "has the shape [4, 32]; the model needs [32, 4]", { { "w", { 4, 32 }, "F32" } }, want)
    says(C.MP_EFORMAT, "has the shape [32]; the model needs [32, 4]", { { "w", { 32 }, "F32" } }, want)
    says(C.MP_EFORMAT, "has the shape [32, 4, 2]; the model needs [32, 4]", { { "w", { 32, 4, 2 }, "F32" } }, want)
    says(C.MP_EUNSUPPORTED, "not this one", { { "w", { 32, 4 }, "F32" } }, want, function(what)
      if what == "size" then
        return C.MP_EUNSUPPORTED, "not this one"
      end
    end)
    local file, plan = make({ { "v", { 32 }, "F32" } }, want)
    local d = device()
    local _, rc, message = find(file, plan, d)
    assert.same({ C.MP_ENOENT, path .. ": tensor 'w' is missing" }, { rc, message })
    d.close()
  end)
end)
