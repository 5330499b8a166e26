--- core/engine/room.h: what loads and sequences hold of a device is never more than its limit, whatever the order.
local C, ffi = require "spec.support.ffi"("core/engine/room.h")
local MIB = 2 ^ 20

describe("a device's room", function()
  local room, err
  before_each(function()
    room, err = C.mp_room_new(), ffi.new "struct mp_err"
  end)
  after_each(function()
    C.mp_room_free(room)
  end)

  local function load(bytes)
    local rc = C.mp_room_load(room, bytes, err)
    return rc, ffi.string(err.message)
  end

  it("refuses a load that does not fit, saying what is wanted and free", function()
    C.mp_room_limit(room, 2048 * MIB)
    assert.equal(0, (load(1928 * MIB)))
    local rc, why = load(700 * MIB)
    assert.same({ C.MP_ENOMEM, "it needs 700 MiB, 120 MiB of the device's 2 GiB are free" }, { rc, why })
    C.mp_room_unload(room, 1928 * MIB)
    rc, why = load(2049 * MIB)
    assert.same({ C.MP_ENOMEM, "it needs 2 GiB, the device has 2 GiB in all" }, { rc, why })
    assert.equal(0, (load(2048 * MIB)))
  end)

  it("has a load wait for what sequences hold, and meanwhile gives them no more", function()
    C.mp_room_limit(room, 100)
    assert.equal(0, (load(40)))
    assert.is_true(C.mp_room_grow(room, 30))
    local rc, why = load(50)
    assert.same({ C.MP_EAGAIN, "the memory it needs is held by sequences that run" }, { rc, why })
    C.mp_room_wait(room, true)
    assert.is_false(C.mp_room_grow(room, 1))
    assert.is_true(C.mp_room_grow(room, 0))
    C.mp_room_shrink(room, 20)
    assert.equal(0, (load(50)))
    C.mp_room_wait(room, false)
    assert.equal(100, tonumber(C.mp_room_held(room)))
  end)

  it("takes what was measured for what was planned, if that fits", function()
    C.mp_room_limit(room, 100)
    assert.equal(0, (load(40)))
    assert.is_true(C.mp_room_correct(room, 40, 90))
    assert.is_false(C.mp_room_correct(room, 90, 101))
    assert.is_true(C.mp_room_correct(room, 90, 30))
    assert.equal(30, tonumber(C.mp_room_held(room)))
  end)

  it("takes nothing away when its limit falls, and gives nothing until it fits again", function()
    assert.equal(0, (load(80)))
    assert.is_true(C.mp_room_grow(room, 40))
    C.mp_room_limit(room, 100)
    assert.is_false(C.mp_room_grow(room, 1))
    C.mp_room_shrink(room, 25)
    assert.is_true(C.mp_room_grow(room, 5))
    assert.is_false(C.mp_room_grow(room, 1))
  end)

  it("is never over its limit, over many random steps against a sum", function()
    math.randomseed(7)
    local limit, loads, grown = 1000, {}, {}
    local function sum(list)
      local n = 0
      for _, v in ipairs(list) do
        n = n + v
      end
      return n
    end
    C.mp_room_limit(room, limit)
    for _ = 1, 100000 do
      local what, n = math.random(5), math.random(300)
      if what == 1 then
        local fits = sum(loads) + sum(grown) + n <= limit
        local rc = C.mp_room_load(room, n, nil)
        assert.equal(fits and 0 or sum(loads) + n <= limit and C.MP_EAGAIN or C.MP_ENOMEM, rc)
        loads[#loads + 1] = rc == 0 and n or nil
      elseif what == 2 and #loads > 0 then
        C.mp_room_unload(room, table.remove(loads, math.random(#loads)))
      elseif what == 3 then
        local fits = sum(loads) + sum(grown) + n <= limit
        assert.equal(fits, C.mp_room_grow(room, n))
        grown[#grown + 1] = fits and n or nil
      elseif what == 4 and #grown > 0 then
        C.mp_room_shrink(room, table.remove(grown, math.random(#grown)))
      elseif what == 5 and #loads > 0 then
        local i = math.random(#loads)
        local fits = sum(loads) + sum(grown) - loads[i] + n <= limit or n <= loads[i]
        assert.equal(fits, C.mp_room_correct(room, loads[i], n))
        loads[i] = fits and n or loads[i]
      end
      assert.equal(sum(loads) + sum(grown), tonumber(C.mp_room_held(room)))
      assert.is_true(tonumber(C.mp_room_held(room)) <= limit)
    end
  end)
end)
