--- core/vm: what a VM offers, whose memory is whose, protected calls.
local vms = require "spec.support.vm"
local C, ffi = vms.C, vms.ffi

describe("a VM", function()
  local vm

  before_each(function()
    vm = assert(vms.new())
  end)

  after_each(function()
    assert.equal(0, ffi.C.lua_gettop(vm.L))
    vm:free()
  end)

  it("has the libraries that scripts may have, and no others", function()
    for _, name in ipairs {
      "io", "debug", "ffi", "jit", "package", "dofile", "loadfile", "getfenv", "setfenv", "newproxy", "collectgarbage", "gcinfo", "module",
      "string.dump", "os.execute", "os.exit", "os.getenv", "os.remove", "os.rename", "os.tmpname", "os.setlocale" } do
      assert.equal("nil", vm:run("return tostring(" .. name .. ")"), name)
    end
    for _, name in ipairs {
      "assert", "error", "pairs", "pcall", "select", "setmetatable", "tonumber", "unpack", "xpcall", "load", "loadstring", "print",
      "require", "string.format", "table.concat", "table.sort", "math.floor", "bit.band", "coroutine.wrap", "os.time", "os.date",
      "os.clock", "os.difftime" } do
      assert.equal("function", vm:run("return type(" .. name .. ")"), name)
    end
    assert.equal("true", vm:run "return _G == _G._G and _G.string == string")
  end)

  it("takes text only, never bytecode", function()
    local _, message, code = vm:run(string.dump(function() end))
    assert.equal("t.lua: bytecode is not accepted", message)
    assert.equal(ffi.C.MP_EFORMAT, code)
    assert.equal("(load): bytecode is not accepted", vm:run "return select(2, load('\\27LJ'))")
    assert.equal("x: bytecode is not accepted", vm:run "return select(2, loadstring('\\27LJ', '@x'))")
    assert.equal("(load): bytecode is not accepted",
      vm:run "local once = true return select(2, load(function() if once then once = false return '\\27LJ' end end, nil, 'b'))")
    assert.equal("3", vm:run "return load('return 1 + 2')()")
    assert.equal("12", vm:run "local i = 0 return load(function() i = i + 1 return ({ 'return ', '1', '2' })[i] end)()")
    assert.equal("9", vm:run "return load('return x', '=x', 't', { x = 9 })()")
    assert.equal("(load):1: unexpected symbol near '='", vm:run "return select(2, load '=')")
    assert.equal("t.lua:1: load: the reader must give strings, not a table", (select(2, vm:run "load(function() return {} end)")))
  end)

  it("protects what all of it shares", function()
    assert.equal("string", vm:run "return getmetatable('')")
    assert.equal("t.lua:1: cannot change a protected metatable", (select(2, vm:run "setmetatable(_G, nil)")))
    assert.equal("xx", vm:run "string.rep = function() return 'evil' end return ('x'):rep(2)")
    assert.equal("globals", vm:run "return getmetatable(_G)")
  end)

  it("locks its globals when told to", function()
    assert.equal("5", vm:run "x = 5 return x")
    C.mp_vm_lock_globals(vm.vm)
    for source, name in pairs {
      ["x = 6"] = "x", ["y = 1"] = "y",
      ["_G.z = 1"] = "z", ["function f() end"] = "f", ["string = nil"] = "string",
    } do
      local _, message, code = vm:run(source)
      assert.equal("t.lua:1: global '" .. name .. "' is read only here: use local", message)
      assert.equal(ffi.C.MP_ESCRIPT, code)
    end
    assert.equal("5", vm:run "return x")
    assert.equal("5", vm:run "return coroutine.wrap(function() return x end)()")
  end)

  it("says where an error was raised, and how it came there", function()
    local _, message, code, trace = vm:run "local function f() error 'boom' end\nlocal function g() f() end\ng()"
    assert.equal("t.lua:1: boom", message)
    assert.equal(ffi.C.MP_ESCRIPT, code)
    assert.matches("t.lua:1: in .-'f'", trace)
    assert.matches("t.lua:2: in .-'g'", trace)
    assert.matches("t.lua:3: main chunk", trace)
    _, message, code = vm:run "error({ code = 'queue_full', message = 'later' })"
    assert.equal("later", message)
    assert.equal(ffi.C.MP_EQUEUE, code)
    assert.equal("the script raised a table without a message", (select(2, vm:run "error {}")))
    assert.equal("the script raised a nil value", (select(2, vm:run "error()")))
    assert.equal("t.lua:1: 7", (select(2, vm:run "error(7)")))
    _, message = vm:run "local x = "
    assert.equal("t.lua:1: unexpected symbol near '<eof>'", message)
    _, message, _, trace = vm:run "local function f(n) if n == 0 then error 'deep' end f(n - 1) local x end f(5000)"
    assert.equal("t.lua:1: deep", message)
    assert.is_true(#trace <= 8192 and #trace > 100)
    assert.matches("… %d+ more", trace)
  end)

  it("tells errors of coroutines as well", function()
    local outcome, message, code, trace = vm:resume(vm:coroutine "local function f() error 'in it' end f()")
    assert.equal("error", outcome)
    assert.equal("t.lua:1: in it", message)
    assert.equal(ffi.C.MP_ESCRIPT, code)
    assert.matches("t.lua:1: in .-'f'", trace)
    outcome, message, code = vm:resume(vm:coroutine "error { code = 'closed', message = 'gone' }")
    assert.equal("error gone " .. ffi.C.MP_ECLOSED, outcome .. " " .. message .. " " .. code)
    ffi.C.lua_settop(vm.L, 0)
  end)
end)

describe("print", function()
  it("goes to the caller with its place", function()
    local lines = {}
    local vm = assert(vms.new { print = function(where, text)
      lines[#lines + 1] = where .. " " .. text
    end })
    vm:run "print('a', 1, nil, true)\nprint()\nprint(setmetatable({}, { __tostring = function() return 'T' end }))"
    assert.same({ "t.lua:1 a\t1\tnil\ttrue", "t.lua:2 ", "t.lua:3 T" }, lines)
    vm:free()
  end)
end)

describe("require", function()
  local modules = {
    one = "local n = (counter or 0) + 1 counter = n return { n = n }",
    ["dir.two"] = "return require('one').n * 10",
    nothing = "x = 1",
    broken = "local = 1",
    raises = "error 'at load'",
    a = "local b = require 'b' return b", b = "local a = require 'a' return a",
    waits = "coroutine.yield() return 1",
  }
  local vm

  before_each(function()
    vm = assert(vms.new { loader = function(name)
      if name == "unreadable" then
        return nil, nil, "unreadable.lua: permission denied"
      end
      return modules[name], "@conf/" .. name .. ".lua"
    end })
  end)

  after_each(function()
    vm:free()
  end)

  it("loads once, from the caller's loader or the bundle", function()
    assert.equal("1 1 10", vm:run "return require('one').n .. ' ' .. require('one').n .. ' ' .. require('dir.two')")
    assert.equal("true", vm:run "return require 'nothing'")
    assert.equal("function", vm:run "return type(require 'moonpool.stdlib')")
    assert.equal("table", vm:run "return type(require 'moonpool.jinja')")
  end)

  it("says what is wrong", function()
    for source, message in pairs {
      ["require 'absent'"] = "t.lua:1: module 'absent' not found",
      ["require 'moonpool.absent'"] = "t.lua:1: module 'moonpool.absent' not found",
      ["require 'broken'"] = "conf/broken.lua:1: '<name>' expected near '='",
      ["require 'raises'"] = "conf/raises.lua:1: at load",
      ["require 'a'"] = "conf/b.lua:1: module 'a' requires itself, by way of what it requires",
      ["require '../etc'"] = "t.lua:1: '../etc' is no module's name: letters, digits, '_' and '-', with dots between",
      ["require ''"] = "t.lua:1: '' is no module's name: letters, digits, '_' and '-', with dots between",
      ["require 'unreadable'"] = "t.lua:1: unreadable.lua: permission denied",
    } do
      local _, got = vm:run("local m = " .. source .. " return m")
      assert.equal(message, got)
      _, got = vm:run("local m = " .. source .. " return m") -- a failure leaves nothing behind
      assert.equal(message, got)
    end
  end)
end)

describe("memory", function()
  local vm, accounts

  local function open(limit)
    local a = ffi.new "struct mp_vm_account"
    assert.equal(0, C.mp_vm_account_open(vm.vm, a, limit, vm.err))
    accounts[#accounts + 1] = a
    return a
  end

  --- Runs source with its memory on account a.
  local function run_on(a, source)
    C.mp_vm_charge(vm.vm, a)
    local result, message, code = vm:run(source)
    C.mp_vm_charge(vm.vm, nil)
    return result, message, code
  end

  before_each(function()
    vm, accounts = assert(vms.new { memory = 64 * 2 ^ 20 }), {}
  end)

  after_each(function()
    local total = C.mp_vm_own(vm.vm)
    for _, a in ipairs(accounts) do
      total = total + (a.open and a.used or 0)
    end
    assert.equal(tonumber(C.mp_vm_used(vm.vm)), tonumber(total)) -- every byte is on one account
    for _, a in ipairs(accounts) do
      C.mp_vm_account_close(vm.vm, a)
    end
    vm:free()
  end)

  it("of a run ends that run at its limit, and no other", function()
    for _, source in ipairs {
      "local t = {} for i = 1, 1e9 do t[i] = i end", "local t = {} for i = 1, 1e9 do t[i] = {} end",
      "local s = 'x' while true do s = s .. s end",
      "return ('x'):rep(1e9)", "local t = {} for i = 1, 1e9 do t[#t + 1] = ('x'):rep(1000) .. i end",
      "local t = {} for i = 1, 1e9 do t[i] = coroutine.create(function() end) end",
      "local t = {} for i = 1, 1e9 do t[i] = function() return i end end", "return (('x'):rep(4e6):gsub('x', 'yyyyyyyy'))",
      "local t = {} for i = 1, 4e5 do t[i] = 'abcdefghijklmnopqrst' end t = table.concat(t) return t .. t .. t",
    } do
      local a = open(16 * 2 ^ 20)
      local _, message, code = run_on(a, source)
      assert.equal(ffi.C.MP_EMEMORY, code, source)
      assert.equal("not enough memory", message)
      assert.is_true(a.hit)
      assert.is_true(a.peak <= 16 * 2 ^ 20)
      assert.equal("55", run_on(open(16 * 2 ^ 20), "local n = 0 for i = 1, 10 do n = n + i end return n"))
      C.mp_vm_account_close(vm.vm, a)
    end
  end)

  it("that a run let go is not held against it", function()
    local a = open(16 * 2 ^ 20)
    for _, source in ipairs {
      "local s for i = 1, 20000 do s = ('x'):rep(10000) .. i end return #s", -- 200 MB in all
      "local s for i = 1, 100 do s = ('x'):rep(1000000) .. i end return #s",
      "local t for i = 1, 300 do t = {} for j = 1, 10000 do t[j] = j end end return #t",
      "local t for i = 1, 2e6 do t = { i } end return 1",
    } do
      assert.truthy(run_on(a, source), source)
    end
    assert.is_false(a.hit)
  end)

  it("that a run let go is not held against it beside 30 MB that live", function()
    assert.equal("1", vm:run "kept = {} for i = 1, 150000 do kept[i] = { i, tostring(i) } end return 1")
    assert.is_true(C.mp_vm_used(vm.vm) > 25 * 2 ^ 20)
    local a = open(16 * 2 ^ 20)
    for _ = 1, 20 do
      assert.equal("1", run_on(a, "local s for i = 1, 30 do s = ('x'):rep(1000000) .. i end return 1"))
    end
    assert.is_false(a.hit)
    -- many innocent runs in turn, each of 0.1 MB
    for _ = 1, 500 do
      local b = ffi.new "struct mp_vm_account"
      assert.equal(0, C.mp_vm_account_open(vm.vm, b, 16 * 2 ^ 20, vm.err))
      assert.equal("1000", run_on(b, "local t = {} for i = 1, 1000 do t[i] = { i } end return #t"))
      C.mp_vm_account_close(vm.vm, b)
    end
  end)

  it("goes back to whose it was, whoever collects", function()
    local a, b = open(0), open(0)
    run_on(a, "local t = {} for i = 1, 10000 do t[i] = { i } end")
    local before = a.used
    assert.is_true(before > 500000)
    C.mp_vm_charge(vm.vm, b)
    C.mp_vm_collect(vm.vm)
    C.mp_vm_charge(vm.vm, nil)
    assert.is_true(a.used < before / 10)
    assert.is_true(b.used < 10000)
  end)

  it("that a closed account leaves behind is the VM's own", function()
    local a = open(0)
    run_on(a, "kept = ('x'):rep(1000000)")
    local own = C.mp_vm_own(vm.vm)
    C.mp_vm_account_close(vm.vm, a)
    assert.is_true(C.mp_vm_own(vm.vm) >= own + 1000000)
    vm:run "kept = nil"
    for _ = 1, 8 do -- LuaJIT's scratch buffer halves with each
      C.mp_vm_collect(vm.vm)
    end
    assert.is_true(C.mp_vm_own(vm.vm) < own + 100000)
  end)

  it("past nine tenths of the cap is for C alone", function()
    local a = open(0)
    local _, _, code = run_on(a, "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(100000) .. i end")
    assert.equal(ffi.C.MP_EMEMORY, code)
    assert.is_true(a.peak < 0.9 * 64 * 2 ^ 20)
  end)

  it("of a script that catches the error is still seen to be too much", function()
    local a = open(2 ^ 20)
    assert.equal("false", run_on(a, "return pcall(string.rep, 'x', 1e7)"))
    assert.is_true(a.hit)
  end)

  it("accounts open and close by the thousand", function()
    local many = ffi.new "struct mp_vm_account[3000]"
    for round = 1, 3 do
      for i = 0, 2999 do
        assert.equal(0, C.mp_vm_account_open(vm.vm, many[i], 1000000, vm.err))
        assert.is_true(many[i].slot > 0 and many[i].used == 0)
      end
      assert.equal("2", run_on(many[round * 7], "return #{ 1, 2 }"))
      for i = 2999, 0, -1 do
        C.mp_vm_account_close(vm.vm, many[i])
      end
    end
  end)
end)

describe("a VM that is too small", function()
  it("is refused, not half made", function()
    local vm, message, code = vms.new { memory = 20000 }
    assert.is_nil(vm)
    assert.equal(ffi.C.MP_ENOMEM, code)
    assert.equal("cannot open a Lua VM: not enough memory", message)
  end)

  it("is refused or works at every size in between", function()
    for memory = 10000, 400000, 13001 do
      local vm = vms.new { memory = memory }
      if vm then
        vm:run "local t = {} for i = 1, 1000 do t[i] = {} end"
        vm:free()
      end
    end
  end)
end)

describe("a VM that collects at every chance", function()
  it("behaves like any other", function()
    local vm = assert(vms.new { gc_stress = true })
    assert.equal("100 a1", vm:run [[
      local t = {}
      for i = 1, 100 do
        t[i] = setmetatable({ tostring(i) }, { __tostring = function(s) return "a" .. s[1] end })
      end
      table.sort(t, function(a, b) return tonumber(a[1]) < tonumber(b[1]) end)
      local co = coroutine.wrap(function() for i = 1, #t do coroutine.yield(t[i]) end end)
      return #t .. " " .. tostring(co())
    ]])
    vm:free()
  end)
end)
