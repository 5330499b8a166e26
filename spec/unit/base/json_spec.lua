--- core/base/json.c: RFC 8259 and nothing more; the limits; the writer.
local C, ffi = require "spec.support.ffi"("core/base/json.h", "core/base/utf8.h", "core/base/mem.h")

local function check(text, depth, values)
  local err = ffi.new "struct mp_err"
  local rc = C.mp_json_check(text, #text, depth or 0, values or 0, err)
  return rc, ffi.string(err.message)
end

local function first_string(text)
  local j = ffi.new "struct mp_json"
  C.mp_json_init(j, text, #text, 0, 0)
  assert.equal(ffi.C.MP_JSON_STRING, tonumber(C.mp_json_next(j)))
  local s = ffi.string(j.text, j.len)
  C.mp_json_free(j)
  return s
end

local function written(fn, ...)
  local b = ffi.new "struct mp_buf"
  fn(b, ...)
  local s = ffi.string(b.data, b.len)
  C.mp_buf_free(b)
  return s
end

describe("the JSON reader", function()
  it("accepts what RFC 8259 allows", function()
    for _, text in ipairs {
      "null", " true ", "[]", "{}", "[1,-0,0.5,1e3,-1.5E-2]", '{"a":{"b":[null,"x"]},"a":1}', '"\\u00e9\\ud83d\\ude00"', "\n[\t1 ,\r\n2]",
    } do
      assert.equal(0, (check(text)), text)
    end
  end)

  it("refuses everything else and says where", function()
    for _, text in ipairs {
      "", " ", "nul", "01", "1.", ".5", "+1", "1e", "NaN", "[1,]", "[1 2]", "{a:1}", '{"a"}', '{"a":1,}', '"', '"\1"', '"\\x"',
      '"\\ud800"', '"\\udc00"', '"\\u12g4"', "[", "{", "[1]]", "1 2", '"\255"', '"\192\128"', '"\237\160\128"', "1e999", "'a'", "//x\n1",
    } do
      local rc, message = check(text)
      assert.equal(ffi.C.MP_EFORMAT, rc, text)
      assert.matches("^line %d+, column %d+: ", message)
    end
    local _, message = check '{"a":\n  nope}'
    assert.equal("line 2, column 3: not a JSON value", message)
  end)

  it("holds its depth and the number of values", function()
    assert.equal(0, (check(("["):rep(64) .. ("]"):rep(64))))
    local rc, message = check(("["):rep(65) .. ("]"):rep(65))
    assert.equal(ffi.C.MP_ELIMIT, rc)
    assert.equal("line 1, column 65: nested too deeply", message)
    assert.equal(0, (check("[1,2,3]", 0, 4)))
    assert.equal(ffi.C.MP_ELIMIT, (check("[1,2,3,4]", 0, 4)))
  end)

  it("unescapes strings", function()
    assert.equal("a\"\\/\b\f\n\r\t\195\169\240\159\152\128z", first_string '"a\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00z"')
    assert.equal("a\0b", first_string '"a\\u0000b"')
  end)
end)

describe("the JSON writer", function()
  it("escapes what must be and replaces what is not UTF-8", function()
    local s = 'a"\\\n\1\127é\255\240\159'
    assert.equal('"a\\"\\\\\\n\\u0001\\u007fé\239\191\189\239\191\189\239\191\189"', written(C.mp_json_put_string, s, #s))
  end)

  it("writes numbers that read back equal", function()
    for _, v in ipairs { 0, -1, 0.1, 1 / 3, 1e300, 5e-324, 2 ^ 53, 123456.789 } do
      assert.equal(v, tonumber(written(C.mp_json_put_number, v)))
    end
    assert.equal("3", written(C.mp_json_put_number, 3))
  end)
end)

describe("UTF-8", function()
  it("replaces each maximal invalid part once", function()
    local function clean(s)
      return written(C.mp_utf8_clean, s, #s)
    end
    assert.equal("a\239\191\189b", clean "a\255b")
    assert.equal("\239\191\189b", clean "\240\159\152b")
    assert.equal("\239\191\189\239\191\189", clean "\237\160")
  end)

  it("knows what a stream must hold back", function()
    for s, n in pairs { a = 0, ["\195"] = 1, ["a\240\159"] = 2, ["a\240\159\152"] = 3, ["\240\159\152\128"] = 0, ["\255"] = 0, ["\128"] = 0 } do
      assert.equal(n, tonumber(C.mp_utf8_partial_tail(s, #s)))
    end
  end)
end)
