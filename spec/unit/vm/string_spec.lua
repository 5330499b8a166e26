--- core/vm/vm_string.c and lua/moonpool/stdlib.lua: our find, match, gmatch, gsub and sort give what LuaJIT's own give.
local vms = require "spec.support.vm"
local C, ffi = vms.C, vms.ffi

--- What a call gives, as text: results or the error, without its place.
local show = [[
  local function show(ok, ...)
    local out = { ok and "ok" or "error" }
    for i = 1, select("#", ...) do
      out[#out + 1] = tostring((select(i, ...))):gsub("^.-:%d+: ", "")
    end
    return table.concat(out, "|")
  end
]]

-- Runs in both: the same programs, the same texts.
local programs = show .. [[
  local results = {}
  for _, case in ipairs(cases) do
    local s, p, start = case[1], case[2], case[3]
    results[#results + 1] = show(pcall(string.find, s, p, start))
    results[#results + 1] = show(pcall(string.match, s, p, start))
    results[#results + 1] = show(pcall(string.gsub, s, p, "<%0>"))
    results[#results + 1] = show(pcall(string.gsub, s, p, "%1%%", 2))
    results[#results + 1] = show(pcall(string.gsub, s, p, function(a, b) return b and a .. b end))
    results[#results + 1] = show(pcall(string.gsub, s, p, { a = "X", ab = 1, [""] = false }))
    results[#results + 1] = show(pcall(function()
      local out = {}
      for a, b in s:gmatch(p) do
        out[#out + 1] = tostring(a) .. "," .. tostring(b)
      end
      return table.concat(out, ";")
    end))
  end
  return table.concat(results, "\n")
]]

local function cases()
  math.randomseed(20261124)
  local pieces = { -- no NUL: LuaJIT's own end a pattern there
    "a", "b", ".", "%a", "%d", "%s", "%w", "%A", "%z", "[ab]", "[^ab]", "[a-c]", "[%a_]", "[]]", "[^]]", "[a-]", "(", ")",
    "()", "*", "+", "-", "?", "^", "$", "%b()", "%f[%a]", "%f[%z]", "%1", "%2", "%", "[", "]", "%.", "(a*)", "(.-)", "x", "[%]]",
    "%bxy", "%g",
  }
  local letters = { "a", "b", "c", "x", "y", "(", ")", "1", " ", "_", "]", "\0", "é", "." }
  local out = {}
  for i = 1, 3000 do
    local s, p = {}, {}
    for j = 1, math.random(0, 12) do
      s[j] = letters[math.random(#letters)]
    end
    for j = 1, math.random(1, 6) do
      p[j] = pieces[math.random(#pieces)]
    end
    out[i] = { table.concat(s), table.concat(p), math.random() < 0.3 and math.random(-5, 8) or 1 }
  end
  return out
end

describe("patterns", function()
  it("match as LuaJIT's own do", function()
    local all, source = cases(), { "cases = {" }
    for _, case in ipairs(all) do
      source[#source + 1] = ("{%q,%q,%d},"):format(case[1], case[2], case[3]):gsub("%z", "\\0")
    end
    source[#source + 1] = "} "
    local text = table.concat(source)
    local vm = assert(vms.new())
    local ours = assert(vm:run(text .. programs))
    local env = setmetatable({}, { __index = _G })
    local theirs = assert(load(text .. programs, "=native", "t", env))()
    vm:free()
    local i, next_ours = 0, ours:gmatch "[^\n]+"
    for line in theirs:gmatch "[^\n]+" do
      local case = all[math.floor(i / 7) + 1]
      assert.equal(line, next_ours(), case and ("%q with %q"):format(case[1], case[2]))
      i = i + 1
    end
    assert.is_true(i >= 7 * 3000)
  end)

  it("can be stopped wherever they backtrack", function()
    for _, source in ipairs {
      "return (('a'):rep(3000)):find(('a*'):rep(60) .. 'b')",
      "return (('a'):rep(100000)):find('.-.-.-b')",
      "return (('('):rep(200000)):gsub('%b()', '')",
      "return (('a'):rep(3000)):match(('(a-)'):rep(20) .. '%1b')",
      "for x in (('a'):rep(3000)):gmatch(('a*'):rep(60) .. 'b') do end",
      "return (('a'):rep(100000)):gsub('a-a-a-b', '')",
    } do
      local vm
      vm = assert(vms.new { print = function() C.mp_vm_arm_kill(vm.vm) end })
      local co = vm:coroutine("local ok, e = pcall(function() print() " .. source .. " end)")
      local outcome, _, code = vm:resume(co)
      assert.is_true(outcome == "yield" or code == ffi.C.MP_ECPU)
      assert.is_true(C.mp_vm_killed(vm.vm))
      vm:free()
    end
  end)

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
