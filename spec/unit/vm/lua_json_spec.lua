--- core/vm/lua_json.c: Lua values from JSON and back, and the errors that name a path.
local vms = require "spec.support.vm"
local C, ffi = vms.C, vms.ffi

describe("JSON in a VM", function()
  local vm

  before_each(function()
    vm = assert(vms.new())
    assert.equal(1, C.mp_lua_json_open(vm.L))
    ffi.cdef "void lua_setfield(lua_State *L, int index, const char *k);"
    ffi.C.lua_setfield(vm.L, -10002, "json")
  end)

  after_each(function()
    assert.equal(0, ffi.C.lua_gettop(vm.L))
    vm:free()
  end)

  local function same(text, expected)
    assert.equal(expected or text, assert(vm:run(("return json.encode(assert(json.decode(%q)))"):format(text))))
  end

  it("gives back what it read, with keys sorted", function()
    same "null"
    same "[]"
    same "{}"
    same '[{},[],[[]],null,true,false,0,-1,0.1,"x\\n\\u0001é😀"]'
    same('{"b":1,"a":{"d":null,"c":[]}}', '{"a":{"c":[],"d":null},"b":1}')
    same("[1.0, 1e3, -0.5e-1, 9007199254740992, -9007199254740992]", "[1,1000,-0.05,9007199254740992,-9007199254740992]")
    same('{"a":1,"a":2}', '{"a":2}')
    same('"a\\u0000b"')
  end)

  it("tells arrays from objects by what is in them, or by their mark", function()
    assert.equal("{}", vm:run "return json.encode {}")
    assert.equal("[]", vm:run "return json.encode(json.array {})")
    assert.equal("[]", vm:run "return json.encode(json.array())")
    assert.equal("[1,[2],{}]", vm:run "return json.encode { 1, { 2 }, {} }")
    assert.equal('{"a":[]}', vm:run "return json.encode { a = json.array() }")
    assert.equal("[1,null]", vm:run "return json.encode { 1, json.null }")
    assert.equal("true", vm:run "return json.decode('null') == json.null")
    assert.equal("mp.json.array", vm:run "return getmetatable(json.decode('[]'))")
  end)

  it("names the path of what has no JSON form", function()
    for source, message in pairs {
      ["{ messages = { 1, { content = print } } }"] = "messages[1].content: a function has no JSON form",
      ["print"] = "the value: a function has no JSON form",
      ["{ a = 0/0 }"] = "a: NaN has no JSON form",
      ["{ 1/0 }"] = "[0]: infinity has no JSON form",
      ["{ ['a b'] = { 2^53 + 2 } }"] = '["a b"][0]: an integer beyond 2^53 would lose digits; send it as a string',
      ["{ x = { 1, 2, a = 3 } }"] = "x: a table with both list elements and named members has no JSON form",
      ["{ [1.5] = 1 }"] = "the value: a table's keys must be strings, or 1, 2, … of a list",
      ["{ [true] = 1 }"] = "the value: a table's keys must be strings, or 1, 2, … of a list",
      ["{ [1] = 1, [3] = 1, [5] = 1, [1000] = 1 }"] = "the value: a list must not have holes (use mp.null)",
      ["{ a = coroutine.create(print) }"] = "a: a coroutine has no JSON form",
    } do
      assert.equal("invalid_argument " .. message, vm:run("local t, e = json.encode(" .. source .. ") return e.code .. ' ' .. e.message"))
    end
    local deep = "local t = {} for i = 1, 70 do t = { t } end local s, e = json.encode(t) return e.code"
    assert.equal("limit_exceeded", vm:run(deep))
    assert.equal("limit_exceeded", vm:run "local t = {} t.t = t local s, e = json.encode(t) return e.code")
  end)

  it("refuses integers that would lose digits, naming the path", function()
    for _, n in ipairs { "9007199254740993", "-9007199254740993", "123456789012345678901" } do
      local _, message = vm:run("local v, e = json.decode('{\"a\":[0," .. n .. "]}') error(e)")
      assert.equal("a[1]: an integer beyond 2^53 would lose digits; send it as a string", message)
    end
    assert.equal("1e+300", vm:run "return tostring(json.decode('1e300'))")
  end)

  it("says where malformed text is wrong", function()
    assert.equal("line 1, column 4: not a JSON value", vm:run "local v, e = json.decode('[1,]') return e.message")
    assert.equal("bad_format", vm:run "local v, e = json.decode('') return e.code")
    assert.equal("limit_exceeded", vm:run "local v, e = json.decode(('['):rep(65) .. (']'):rep(65)) return e.code")
    assert.equal("limit_exceeded", vm:run "local v, e = json.decode('[' .. ('1,'):rep(100000) .. '1]') return e.code")
  end)

  it("reads in a VM that has hardly any memory left without leaking or dying", function()
    local account = ffi.new "struct mp_vm_account"
    assert.equal(0, C.mp_vm_account_open(vm.vm, account, 100000, vm.err))
    C.mp_vm_charge(vm.vm, account)
    local _, message, code = vm:run "return json.decode('[' .. ('{},'):rep(20000) .. '1]')"
    C.mp_vm_charge(vm.vm, nil)
    assert.equal(ffi.C.MP_EMEMORY, code)
    assert.equal("not enough memory", message)
    assert.is_true(account.hit)
    C.mp_vm_account_close(vm.vm, account)
  end)
end)
