--- core/vm/vm.c: a script that loops is stopped wherever it loops, and the VM goes on.
local vms = require "spec.support.vm"
local C, ffi = vms.C, vms.ffi

--- `arm()` in a script arms the kill, as the watchdog's signal would at that moment.
local function new(opts)
  local vm
  opts = opts or {}
  opts.print = function()
    C.mp_vm_arm_kill(vm.vm)
  end
  opts.loader = function(module)
    if module == "looping" then
      return "arm() while true do end", "@looping.lua"
    end
  end
  vm = assert(vms.new(opts))
  assert.equal("true", vm:run "arm = print forever = function() arm() while true do end end return true")
  return vm
end

-- name, source, and whether the end is an error (where nothing can yield) or a yield of the run's coroutine
local loops = {
  { "a plain loop", "forever()", "yield" },
  { "a loop in pcall", "while true do pcall(forever) end", "yield" },
  { "a handler of xpcall", "xpcall(error, forever) while true do end", "yield" },
  { "xpcall within its handler", "while true do xpcall(function() xpcall(error, forever) end, forever) end", "yield" },
  { "a coroutine", "while true do coroutine.resume(coroutine.create(forever)) end", "yield" },
  { "a wrapped coroutine in pcall", "while true do pcall(coroutine.wrap(forever)) end", "yield" },
  { "coroutines in coroutines", "local function f(n) while true do coroutine.wrap(n > 0 and f or forever)(n - 1) end end f(20)", "yield" },
  { "a metamethod", "local t = setmetatable({}, { __index = forever }) while true do pcall(function() return t.x end) end", "yield" },
  { "a chunk made by load", "load('forever()')()", "yield" },
  { "load's reader", "while true do pcall(load, forever) end", "yield" },
  { "a comparator of sort", "while true do pcall(table.sort, { 3, 2, 1, 4 }, forever) end", "yield" },
  { "sort within xpcall with a looping handler", "while true do xpcall(table.sort, forever, { 3, 2, 1 }, forever) end", "yield" },
  { "a callback of gsub", "while true do pcall(string.gsub, 'aaa', 'a', forever) end", "yield" },
  { "tostring", "local t = setmetatable({}, { __tostring = forever }) while true do pcall(tostring, t) end", "yield" },
  { "an iterator", "for _ in forever do end", "yield" },
  { "the body of a required module", "while true do pcall(require, 'looping') end", "yield" },
  { "endless tail calls", "arm() local function f() return f() end f()", "yield" },
  { "endless goto", "arm() ::again:: goto again", "yield" },
  { "repeat until false", "arm() repeat until false", "yield" },
  { "an empty numeric loop", "arm() for i = 1, 2^60 do end", "yield" },
  { "a comparator, uncaught", "table.sort({ 3, 2, 1 }, forever)", "either" },
  { "a gsub callback, uncaught", "return (('x'):gsub('.', forever))", "error" },
}

describe("the kill", function()
  local vm

  before_each(function()
    vm = new()
  end)

  after_each(function()
    vm:free()
  end)

  for _, case in ipairs(loops) do
    local name, source, how = case[1], case[2], case[3]

    it("ends " .. name .. " in a coroutine", function()
      local co = vm:coroutine(source)
      local outcome, message, code = vm:resume(co)
      assert.is_true(C.mp_vm_killed(vm.vm))
      if how ~= "either" then
        assert.equal(how, outcome)
      end
      if outcome == "error" then
        assert.equal(ffi.C.MP_ECPU, code)
        assert.matches("ran too long and was stopped", message, 1, true)
      end
      C.mp_vm_disarm_kill(vm.vm)
      assert.is_false(C.mp_vm_killed(vm.vm))
      local after, result = vm:resume(vm:coroutine "return 6 * 7")
      assert.equal("done 42", after .. " " .. result)
    end)

    it("ends " .. name .. " where nothing can yield", function()
      local _, message, code = vm:run(source)
      assert.equal(ffi.C.MP_ECPU, code)
      assert.matches("ran too long and was stopped", message, 1, true)
      C.mp_vm_disarm_kill(vm.vm)
      assert.equal("42", vm:run "return 6 * 7")
    end)
  end

  it("is not seen by a run that ended just before it", function()
    local outcome, result = vm:resume(vm:coroutine "arm() return 'done'")
    -- the return itself is an instruction: it may be stopped, or not
    assert.is_true(outcome == "yield" or result == "done")
    C.mp_vm_disarm_kill(vm.vm)
    assert.equal("1", vm:run "return 1")
  end)

  it("tells an ordinary yield from a killed one", function()
    local co = vm:coroutine "coroutine.yield() return 'back'"
    assert.equal("yield", vm:resume(co))
    assert.is_false(C.mp_vm_killed(vm.vm))
    assert.same({ "done", "back" }, { vm:resume(co) })
  end)

  it("leaves other coroutines as they were", function()
    local parked = vm:coroutine "local x = 5 coroutine.yield() return x"
    assert.equal("yield", vm:resume(parked))
    assert.equal("yield", vm:resume(vm:coroutine "forever()"))
    C.mp_vm_disarm_kill(vm.vm)
    assert.same({ "done", "5" }, { vm:resume(parked) })
  end)
end)

describe("a VM with a limit of steps", function()
  it("ends what runs longer, whatever it catches", function()
    for _, source in ipairs {
      "while true do end",
      "while true do pcall(function() while true do end end) end",
      "xpcall(function() while true do end end, function() while true do end end) while true do end",
      "coroutine.wrap(function() while true do end end)()",
    } do
      local vm = assert(vms.new { steps = 100000 })
      assert.equal("3", vm:run "return 1 + 2")
      local _, message, code = vm:run(source)
      assert.equal(ffi.C.MP_ECPU, code)
      assert.matches("ran too many steps", message, 1, true)
      vm:free()
    end
  end)
end)
