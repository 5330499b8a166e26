-- luacheck: no max line length (cases stand on one line each)
--- core/vm/pattern.c and vm_string.c: our find, match, gmatch and gsub give what LuaJIT's own give, error texts included, and
--- can be stopped wherever they loop.
local vms = require "spec.support.vm"
local C, ffi = vms.C, vms.ffi

-- What a call gives, as one line: results or the error, each with its type.
local show = [[
  local function show(ok, ...)
    local out = { ok and "ok" or "error" }
    for i = 1, select("#", ...) do
      local v = select(i, ...)
      out[#out + 1] = type(v) .. " " .. tostring(v)
    end
    return (table.concat(out, "|"):gsub("\n", "\\n"))
  end
]]

--- Runs the same program in the host's LuaJIT and in a VM of ours: the lines that it returns must be the same.
local function compare(program)
  local theirs = assert(load(program, "=t", "t", setmetatable({}, { __index = _G })))()
  local vm = assert(vms.new())
  local ours, message = vm:run(program, "=t")
  vm:free()
  assert(ours, message)
  local next_ours, n = ours:gmatch "[^\n]+", 0
  for line in theirs:gmatch "[^\n]+" do
    assert.equal(line, next_ours())
    n = n + 1
  end
  assert.is_nil(next_ours())
  return n
end

--- 1,000 random pairs, from a seed; each line begins with its pair. No NUL in patterns: LuaJIT's own end there.
local function random_program(seed)
  return show .. "local x = " .. seed .. [==[

  local function random(n)
    x = (x * 16807) % 2147483647
    return x % n + 1
  end
  local pieces = {
    "a", "b", ".", "%a", "%d", "%s", "%w", "%l", "%u", "%p", "%c", "%x", "%g", "%z", "%A", "%D", "%S", "%W", "%L", "%U", "%P",
    "%C", "%X", "%G", "%Z", "%y", "%é", "[ab]", "[^ab]", "[a-c]", "[%a_]", "[]]", "[^]]", "[a-]", "[-a]", "[a-%%]", "[%a-z]",
    "[^%s%d]", "[]-a]", "[%]]", "[é-ü]", "(", ")", "()", "(", ")", "*", "+", "-", "?", "*", "+", "-", "?", "^", "$", "%b()", "%bxx",
    "%bxy", "%b", "%f[%a]", "%f[%z]", "%f[^a]", "%f", "%0", "%1", "%2", "%9", "%", "[", "]", "[^", "[%", "%.", "(a*)", "(.-)", "x",
    "(%a+)", "é",
  }
  local letters = { "a", "b", "c", "x", "y", "(", ")", "1", " ", "_", "]", "\0", "é", ".", "A", "%", "\127", "\t", "\255", "-" }
  local lines = {}
  local function add(name, s, p, start, ...)
    lines[#lines + 1] = ("%s %q %q %s: %s"):format(name, s, p, tostring(start), show(...)):gsub("\n", "\\n")
  end
  local function gmatch(s, p)
    local out = {}
    for a, b in s:gmatch(p) do
      out[#out + 1] = tostring(a) .. "," .. tostring(b)
    end
    return table.concat(out, ";")
  end
  local replacements = {
    "<%0>", "%1%%", "%2%1", "%", "%a", "", 12, { a = "X", ab = 1, [""] = false, b = true, [1] = "one" },
    function(a, b) return b and a .. b end, function(a) return a == "b" and {} or nil end,
  }
  for _ = 1, 1000 do
    local s, p = {}, {}
    for j = 1, random(13) - 1 do
      s[j] = letters[random(#letters)]
    end
    for j = 1, random(7) do
      p[j] = pieces[random(#pieces)]
    end
    s, p = table.concat(s), table.concat(p)
    local start = random(3) == 1 and (random(40) - 20) / 2 or nil
    add("find", s, p, start, pcall(string.find, s, p, start))
    add("plain", s, p, start, pcall(string.find, s, s:sub(3, 4), start, true))
    add("match", s, p, start, pcall(string.match, s, p, start))
    add("gmatch", s, p, nil, pcall(gmatch, s, p))
    for i, with in ipairs(replacements) do
      local most = random(3) == 1 and (random(8) - 3) / 2 or nil
      add("gsub" .. i, s, p, most, pcall(string.gsub, s, p, with, most))
    end
  end
  return table.concat(lines, "\n")
  ]==]
end

local by_hand = {
  -- anchors, captures, positions
  "('hello'):find('^h')", "('hello'):find('^e')", "('hello'):find('o$')", "('a$b'):find('$b')", "('a^b'):find('a^')", "('x'):find('^')",
  "('x'):find('$')", "(''):find('^$')", "('^x'):gmatch('^x')()", "('aXb'):match('()%u()')", "('key = value'):match('(%w+)%s*=%s*(%w+)')",
  "('aaa'):gsub('^a', 'b')", "('abc'):find('((a)(b))')", "('abc'):match('(())')", "('abc'):find('b', 1, false)", "('hello'):find('l')",
  "('x'):match(('()'):rep(32))", "('x'):match(('()'):rep(33))", "('x'):match(('('):rep(33))", "('x'):match('((x)')", "('x'):match('(x))')",
  "('x'):match('(')", "('x'):find(')')", "('x)'):find(')')", "('x'):match(')')", "('x'):match('()%1')", "('xx'):match('(x%1)')",
  -- references, balance, frontier
  "('abab'):find('(ab)%1')", "('\"it\\'s\"'):match('([\"\\'])(.-)%1')", "('x'):match('%1')", "('x'):match('%0')", "('xx'):find('(x)%2')",
  "('f(a(b)c)d'):match('%b()')", "('f(a(b c'):match('%b()')", "('xax'):match('%bxx')", "('x'):find('%b')", "('x'):find('%b(')",
  "('THE (quick) fox'):find('%f[%a]%a+%f[%A]')", "('x'):find('%f')", "('x'):find('%fx')", "('x'):find('%f[')", "('ab'):gsub('%f[%w]', '|')",
  -- sets
  "('a]b'):find('[]]')", "('a-b'):find('[a-]+')", "('b'):find('[^]')", "('x'):find('[')", "('x'):find('[a')", "('x'):find('[%')", "('x'):find('[%]')",
  "('x'):find('[]')", "('x'):find('[a-%%]')", "(']'):find('[a-%%]')", "('m'):find('[z-a]')", "('x'):find('%')", "('x'):find('a%')", "('%'):find('%%')",
  -- where to begin
  "('abc'):find('c', -1)", "('abc'):find('c', -1.5)", "('abc'):find('b', 1.9)", "('abc'):find('a', -10)", "('abc'):find('', 4)", "('abc'):find('', 10)",
  "('abc'):find('', 10, true)", "('abc'):match('', 10)", "('abc'):match('()', 10)", "('abc'):find('b', '2')", "('abc'):find('b', 'x')", "('abc'):find('b', {})",
  "('abc'):find('b', 0)", "('abc'):find('b', nil, true)", "('a.c'):find('.', 1, true)", "('a.c'):find('.', 2, 1)", "(''):find('')", "(''):find('', 2)", "('abc'):find('x', 1, true)",
  "('x'):find('xx', 1, true)", "('abc'):find('c', 3, true)", "('abc'):find('c', 4, true)",
  -- replacements
  "('abc'):gsub('%w', '%0%0')", "('abc'):gsub('%w', '%1')", "('abc'):gsub('%w', '%2')", "('abc'):gsub('(a)(b)', '%2%1')", "('abc'):gsub('(a)', '%9')", "('x'):gsub('x', '%')",
  "('x'):gsub('x', 'a%')", "('x'):gsub('x', '%%')", "('x'):gsub('x', '%q')", "('abc'):gsub('', '-')", "('abc'):gsub('', '-', 2)", "('abc'):gsub('b*', '-')", "('aaa'):gsub('a', 'b', 0)",
  "('aaa'):gsub('a', 'b', -1)", "('aaa'):gsub('a', 'b', 1.9)", "('aaa'):gsub('a', 'b', '2')", "('aaa'):gsub('a', 'b', {})", "('aaa'):gsub('a', 'b', 100)", "('aaa'):gsub('a', 7)",
  "('abc'):gsub('%w', { a = 1, b = true })", "('abc'):gsub('%w', { a = 1, b = false })", "('abc'):gsub('(a)(b)', { a = 'x' })", "('abc'):gsub('()', { 'x', 'y' })",
  "('a'):gsub('a', setmetatable({}, { __index = function(_, k) return k .. k end }))", "('a'):gsub('a', function() return {} end)", "('a'):gsub('a', function() return true end)",
  "('a'):gsub('a', function() error('mine') end)", "('abc'):gsub('%w', function() end)", "('abc'):gsub('(%w)()', function(a, b) return a .. b end)",
  "('a'):gsub('(', 'x')", "('a'):gsub('(', '%1')", "('a'):gsub('a', nil)", "('a'):gsub('a', true)", "('a'):gsub('a')", "('a'):gsub('a', nil, {})", "('a'):gsub('[', nil)",
  -- arguments
  "string.find()", "string.find('a')", "string.find(nil, 'a')", "string.find({}, 'a')", "string.match('a', {})", "string.gmatch('a')", "string.gmatch()", "string.gsub()", "string.gsub('a')",
  "('a').find()", "('x'):find()", "('x'):gsub('x')", "string.find(123, 2)", "string.gsub(121, 1, 3)", "string.match(12.5, '%.')", "string.gmatch('a', '(')()", "string.gmatch(12, '%d')()",
  -- how deep
  "(('a'):rep(300)):find(('a?'):rep(199))", "(('a'):rep(300)):find(('a?'):rep(200))", "(('a'):rep(300)):find(('a*'):rep(199))", "(('a'):rep(300)):find(('a*'):rep(200))",
  "(('a'):rep(300)):find(('a-'):rep(199))", "(('a'):rep(300)):find(('a-'):rep(200))", "(('b'):rep(300)):find(('a?'):rep(300))", "(('b'):rep(300)):find(('a*'):rep(200))",
  "(('a'):rep(300)):find('()(a)' .. ('a*'):rep(196))", "(('a'):rep(300)):find('()(a)' .. ('a*'):rep(197))", "#(('a'):rep(300000)):match('.-b?$')",
}

describe("patterns", function()
  for seed = 1, 8 do
    it("match as LuaJIT's own do: 1,000 random pairs, seed " .. seed, function()
      assert.equal(14000, compare(random_program(seed * 20261)))
    end)
  end

  it("match as LuaJIT's own do: by hand", function()
    local source = { show, "local lines = {} local function add(name, ...) lines[#lines + 1] = name .. ' ' .. show(...) end " }
    for _, case in ipairs(by_hand) do -- once as the program's own call, for the error's place; not a tail call
      source[#source + 1] = ("add(%q, pcall(function() local a, b, c, d = %s return a, b, c, d end))"):format(case, case)
    end
    source[#source + 1] = "return table.concat(lines, '\\n')"
    assert.equal(#by_hand, compare(table.concat(source, "\n")))
  end)

  it("find plain texts wherever they lie in long ones", function()
    local vm = assert(vms.new())
    assert.equal("true", vm:run [[
      for _, fill in ipairs { "a", "n", "ne" } do
        local before = fill:rep(600000 / #fill)
        for at = 262144 - 12, 262144 + 24, 2 do -- around the end of a window
          local s = before:sub(1, at) .. "needle" .. before:sub(1, 300000)
          local first, last = s:find("needle", 1, true)
          assert(first == at + 1 and last == at + 6, at)
          assert(s:find("needle", first + 1, true) == nil)
          assert(s:find("needle", first) == first)
        end
        local s = before .. "needle"
        assert(s:find("needle", -6, true) == 600001 and s:find(s, 1, true) == 1 and s:find(s .. "x", 1, true) == nil)
      end
      return "true"]])
    vm:free()
  end)

  it("take a NUL for a character, which LuaJIT's own do not", function()
    local vm = assert(vms.new())
    for source, expected in pairs {
      ["('a\\0b'):match('a\\0.')"] = "a\0b", ["('a\\0b'):find('\\0b')"] = "2", ["('a\\0b'):gsub('[\\0]', '0')"] = "a0b", ["('a\\0bc'):match('[\\0-b]+$')"] = "nil",
      ["('a\\0b'):match('%f[\\0]()')"] = "2", ["('a\\0b'):match('%b\\0b')"] = "\0b", ["('ab'):match('a\\0')"] = "nil", ["('x\\0'):gsub('\\0', '%0%0')"] = "x\0\0",
    } do
      assert.equal(expected, vm:run("return tostring((" .. source .. "))"), source)
    end
    vm:free()
  end)

  it("hold what no int holds for the nearest that one does", function()
    local vm = assert(vms.new())
    assert.equal("b 0 2 nil", vm:run [[
      local a = ("a"):gsub("a", "b", math.huge)
      local _, n = ("a"):gsub("a", "b", 0 / 0)
      return table.concat({ a, n, (("abc"):find("b", -1e300)), tostring(("abc"):find("b", 1e300)) }, " ")]])
    vm:free()
  end)
end)

-- A function and its arguments, which would take hours or centuries.
local hostile = {
  ["find"] = "string.find, ('a'):rep(30) .. 'b', ('a*'):rep(30) .. 'c'",
  ["find by a method"] = "('x').find, ('a'):rep(30) .. 'b', ('a*'):rep(30) .. 'c'",
  ["match"] = "string.match, ('a'):rep(3000), ('(a-)'):rep(20) .. '%1b'",
  ["gmatch's iterator"] = "string.gmatch(('a'):rep(30) .. 'b', ('a*'):rep(30) .. 'c')",
  ["gsub"] = "string.gsub, ('a'):rep(100000), 'a-a-a-b', ''",
  ["gsub's replacements"] = "string.gsub, ('x'):rep(1000000), 'y*', ('%1'):rep(1000000)",
  ["?"] = "string.find, ('a'):rep(60), ('a?'):rep(60) .. ('a'):rep(60) .. 'b'",
  ["."] = "string.find, ('a'):rep(3000), ('.*'):rep(30) .. 'c'",
  ["%b"] = "string.gsub, ('('):rep(5000000), '%b()', ''",
  ["back references"] = "string.find, ('a'):rep(100000), '(a*)(a*)%1%2b'",
  ["a long set"] = "string.find, ('a'):rep(1000000), '[' .. ('x'):rep(1000000) .. ']'",
  ["a long set without end"] = "string.gsub, ('a'):rep(1000000), 'a-%f[' .. ('x'):rep(1000000) .. ']', ''",
  ["a plain find"] = "string.find, ('a'):rep(8000000), ('a'):rep(100) .. 'b' .. ('a'):rep(100), 1, true",
}

describe("a pattern that takes too long", function()
  for name, source in pairs(hostile) do
    it("is stopped in C: " .. name, function()
      local vm = assert(vms.new())
      assert(vm:load("return " .. source))
      local err, trace = ffi.new "struct mp_err", ffi.new "struct mp_buf"
      local base = ffi.C.lua_gettop(vm.L) - 1
      assert.equal(0, C.mp_vm_pcall(vm.L, 0, -1, nil, err))
      C.mp_vm_arm_kill(vm.vm) -- now the C function runs without any Lua around it: no hook fires, only the poll can stop it
      local before = os.clock()
      assert.equal(ffi.C.MP_ECPU, C.mp_vm_pcall(vm.L, ffi.C.lua_gettop(vm.L) - base - 1, 1, trace, err))
      assert.is_true(os.clock() - before < (os.getenv "MOONPOOL_SANITIZE" and 0.5 or 0.05))
      assert.matches("ran too long and was stopped", ffi.string(err.message), 1, true)
      vms.buf(trace)
      C.mp_vm_disarm_kill(vm.vm)
      assert.equal("2", vm:run "return tostring((('abc'):find('b')))")
      vm:free()
    end)
  end
end)
