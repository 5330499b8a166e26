--- core/cli/show.c, table.c and doc.c: how sizes, times and tables look, and a server's JSON as a tree.
local C, ffi = require "spec.support.ffi"("core/cli/show.h", "core/cli/table.h", "core/cli/doc.h", "core/base/arena.h")

local function text(fn, ...)
  local b = ffi.new "struct mp_buf"
  fn(b, ...)
  local s = b.len > 0 and ffi.string(b.data, b.len) or ""
  C.mp_buf_free(b)
  return s
end

describe("what terminals show", function()
  it("of seconds is short and never more than two units", function()
    for seconds, want in pairs {
      [0] = "0.0s", [0.04] = "0.0s", [0.31] = "0.3s", [9.94] = "9.9s", [9.96] = "10s", [59.4] = "59s", [59.6] = "1m00s", [200] = "3m20s",
      [3599] = "59m59s", [3600] = "1h00m", [7500] = "2h05m", [86399] = "23h59m", [86400] = "1d00h", [371000] = "4d07h", [-5] = "0.0s",
      [1e300] = "11574074074d01h",
    } do
      assert.equal(want, text(C.mp_show_seconds, seconds), seconds)
    end
    assert.equal("0.0s", text(C.mp_show_seconds, 0 / 0))
  end)

  it("of others' words cannot steer the terminal", function()
    assert.equal([[a "b" \ c d\u{1b}[2J\u{202e}\xffé]], text(C.mp_show_plain, "a \"b\" \\ c\nd\27[2J\226\128\174\255é"))
  end)

  it("of a table stands in columns, with no space at a line's end", function()
    local t = ffi.new "struct mp_table"
    C.mp_table_init(t, "MODEL|>MEMORY|>SINCE|>N|WHY", "  ")
    C.mp_table_text(t, "größe")
    C.mp_table_bytes(t, 1536)
    C.mp_table_seconds(t, 200)
    C.mp_table_count(t, 12345)
    C.mp_table_text(t, "new\nline")
    C.mp_table_text(t, "a longer name")
    C.mp_table_bytes(t, 0)
    C.mp_table_seconds(t, 1)
    C.mp_table_printf(t, "%d", ffi.new("int", 7))
    C.mp_table_text(t, "")
    local got = text(function(b) C.mp_table_print(t, b) end)
    C.mp_table_free(t)
    assert.equal(table.concat({
      "  MODEL           MEMORY  SINCE       N  WHY",
      "  größe          1.5 KiB  3m20s  12,345  new line",
      "  a longer name        -   1.0s       7",
      "",
    }, "\n"), got)
  end)
end)

describe("a server's JSON", function()
  it("is a tree; what is not there is empty, never an error", function()
    local a, err = C.mp_arena_new(), ffi.new "struct mp_err"
    local s = '{"n":1.5,"s":"a\\u0000b","t":true,"z":null,"l":[1,{"k":"v"}],"o":{}}'
    local v = C.mp_doc_parse(a, s, #s, err)
    assert.equal(1.5, C.mp_val_number(v, "n"))
    assert.equal("a", ffi.string(C.mp_val_text(v, "s")))
    assert.is_true(C.mp_val_true(v, "t"))
    assert.is_false(C.mp_val_true(v, "n"))
    assert.equal(tonumber(ffi.C.MP_VAL_NULL), tonumber(C.mp_val_get(v, "z").type))
    local list = C.mp_val_get(v, "l")
    assert.equal("v", ffi.string(C.mp_val_text(list.first.next, "k")))
    assert.is_true(list.first.next.next == nil)
    assert.is_true(C.mp_val_get(v, "o").first == nil)
    for _, key in ipairs { "nothing", "l" } do
      assert.equal("", ffi.string(C.mp_val_text(C.mp_val_get(v, key), "x")))
      assert.equal(0, C.mp_val_number(C.mp_val_get(v, key), "x"))
    end
    for _, bad in ipairs { "", "{", "[1,]", "1 2", '{"a":}', ("["):rep(100) } do
      assert.is_true(C.mp_doc_parse(a, bad, #bad, err) == nil, bad)
      assert.matches("^not JSON: ", ffi.string(err.message))
    end
    C.mp_arena_free(a)
  end)
end)
