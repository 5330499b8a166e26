--- core/vm/vm_string.c and lua/moonpool/stdlib.lua: what calls back through C, and our sort (patterns: pattern_spec.lua).
local vms = require "spec.support.vm"
local C, ffi = vms.C, vms.ffi

describe("patterns", function()
  it("find plain texts in long ones in linear time", function()
    local vm = assert(vms.new())
    assert.equal("nil", vm:run "return tostring((('a'):rep(2000000)):find(('a'):rep(1000000) .. 'b', 1, true))")
    vm:free()
  end)
end)

describe("what calls back through C", function()
  it("raises before the C stack is used up", function()
    local vm = assert(vms.new())
    for _, source in ipairs {
      "local function f() return (('x'):gsub('.', f)) end return f()",
      "local function f() return load(f) end return f()",
      "local t = {} setmetatable(t, { __tostring = function() return ('%s'):format(t) end }) return tostring(t)",
      "local t = {} setmetatable(t, { __tostring = function() print(t) return '' end }) print(t)",
    } do
      local _, message, code = vm:run(source)
      assert.equal(ffi.C.MP_ESCRIPT, code)
      assert.matches("stack overflow", message)
      assert.equal("1", vm:run "return 1")
    end
    vm:free()
  end)
end)

describe("table.sort", function()
  it("sorts whatever it is given", function()
    local vm = assert(vms.new())
    assert.equal("true", vm:run [[
      local x = 7
      local function random() x = (x * 1103515245 + 12345) % 2147483648 return x end
      for n = 0, 200 do
        for _, make in ipairs {
          random, function() return random() % 3 end, function(i) return i end, function(i) return -i end, function() return 1 end,
          function(i) return i % 2 == 0 and i or n - i end,
        } do
          local t, sum = {}, 0
          for i = 1, n do
            t[i] = make(i)
            sum = sum + t[i]
          end
          table.sort(t)
          for i = 2, n do
            assert(t[i - 1] <= t[i])
          end
          for i = 1, n do
            sum = sum - t[i]
          end
          assert(sum == 0 and #t == n)
          table.sort(t, function(a, b) return a > b end)
          for i = 2, n do
            assert(t[i - 1] >= t[i])
          end
        end
      end
      local t = { "b", "a", "C" }
      table.sort(t, function(a, b) return a:lower() < b:lower() end)
      return table.concat(t) == "abC"
    ]])
    vm:free()
  end)

  it("ends on comparators that contradict themselves, and says what it cannot compare", function()
    local vm = assert(vms.new { steps = 5000000 })
    for _, source in ipairs { "true", "false", "a ~= b", "#tostring(a) < 2" } do
      vm:run("local t = {} for i = 1, 500 do t[i] = i * 7 % 101 end pcall(table.sort, t, function(a, b) return " .. source .. " end)")
      assert.is_false(C.mp_vm_killed(vm.vm))
    end
    local _, message = vm:run "table.sort({ 1, 'a' })"
    assert.matches("attempt to compare", message)
    _, message = vm:run "table.sort(1)"
    assert.equal("t.lua:1: bad argument #1 to 'sort' (table expected, got number)", message)
    vm:free()
  end)

  it("lets its comparator wait", function()
    local vm = assert(vms.new())
    local co = vm:coroutine "local t = { 2, 1 } table.sort(t, function(a, b) coroutine.yield() return a < b end) return t[1]"
    local outcome, result
    repeat
      outcome, result = vm:resume(co)
    until outcome ~= "yield"
    assert.equal("done 1", outcome .. " " .. result)
    vm:free()
  end)
end)
