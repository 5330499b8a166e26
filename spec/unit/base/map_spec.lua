--- core/base/map.h against a Lua table, under random puts and removes.
local C, ffi = require "spec.support.ffi"("core/base/map.h")

describe("a map of ids", function()
  it("holds what a table holds", function()
    local seed = os.time()
    math.randomseed(seed)
    local map, mirror, n = ffi.new "struct mp_map", {}, 0
    for _ = 1, 20000 do
      local id = math.random(0, 300)
      if math.random() < 0.55 then
        local value = math.random(1, 1000000)
        C.mp_map_put(map, id * 4096, ffi.cast("void *", value))
        n = n + (mirror[id] and 0 or 1)
        mirror[id] = value
      else
        local was = tonumber(ffi.cast("uintptr_t", C.mp_map_remove(map, id * 4096)))
        assert.equal(mirror[id] or 0, was, "seed " .. seed)
        n = n - (mirror[id] and 1 or 0)
        mirror[id] = nil
      end
      assert.equal(n, tonumber(map.n))
      local probe = math.random(0, 300)
      assert.equal(mirror[probe] or 0, tonumber(ffi.cast("uintptr_t", C.mp_map_get(map, probe * 4096))), "seed " .. seed)
    end
    local at, id, value, seen = ffi.new "size_t[1]", ffi.new "uint64_t[1]", ffi.new "void *[1]", 0
    while C.mp_map_next(map, at, id, value) do
      seen = seen + 1
      assert.equal(mirror[tonumber(id[0]) / 4096], tonumber(ffi.cast("uintptr_t", value[0])))
    end
    assert.equal(n, seen)
    C.mp_map_free(map)
  end)
end)
