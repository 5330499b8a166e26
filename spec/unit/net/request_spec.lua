--- core/net/request.c: percent-encoding and queries; core/net/evloop.c: posts; core/base/arena.c.
local C, ffi = require "spec.support.ffi"("core/net/request.h", "core/net/evloop.h", "core/base/arena.h")
jit.off()

describe("a URL", function()
  local arena
  before_each(function() arena = C.mp_arena_new() end)
  after_each(function() C.mp_arena_free(arena) end)

  local function decode(s, plus)
    local n = ffi.new "size_t[1]"
    local out = C.mp_url_decode(arena, s, #s, plus or false, n)
    return out ~= nil and ffi.string(out, n[0]) or nil
  end

  it("is decoded", function()
    assert.equal("/a b/ü+", decode "/a%20b/%C3%BC+")
    assert.equal("a b", decode("a+b", true))
    assert.equal("", decode "")
    assert.equal("%", decode "%25")
  end)

  it("is refused when broken, with NUL, or not UTF-8", function()
    for _, s in ipairs { "%", "%2", "a%", "%g0", "%0g", "% 1", "%00", "%ff", "%C3", "\255", "%ed%a0%80" } do
      assert.is_nil(decode(s), s)
    end
  end)

  it("has a query of names and values", function()
    local function pairs_of(query)
      local out, at = {}, ffi.new "size_t[1]"
      local name, value = ffi.new "const char *[1]", ffi.new "const char *[1]"
      local name_len, value_len = ffi.new "size_t[1]", ffi.new "size_t[1]"
      while C.mp_query_next(query, #query, at, name, name_len, value, value_len) do
        out[#out + 1] = ffi.string(name[0], name_len[0]) .. "=" .. ffi.string(value[0], value_len[0])
      end
      return table.concat(out, " ")
    end
    assert.equal("", pairs_of "")
    assert.equal("a=1 b= c= =d e=f=g", pairs_of "a=1&b=&c&&=d&e=f=g&")
  end)
end)

describe("an arena", function()
  it("gives aligned, separate memory of any size", function()
    local arena = C.mp_arena_new()
    local last, total = {}, 0
    for i = 1, 300 do
      local n = i * 37 % 5000
      local p = ffi.cast("char *", C.mp_arena_alloc(arena, n))
      assert.equal(0, tonumber(ffi.cast("uintptr_t", p) % 16))
      ffi.fill(p, n, i % 256)
      last[i], total = { p, n, i % 256 }, total + n
    end
    for _, x in ipairs(last) do
      for _, at in ipairs { 0, x[2] - 1 } do
        if x[2] > 0 then
          assert.equal(x[3], ffi.cast("unsigned char *", x[1])[at])
        end
      end
    end
    assert.equal(total, tonumber(C.mp_arena_bytes(arena)))
    assert.equal("ab\0c", ffi.string(C.mp_arena_strndup(arena, "ab\0cd", 4), 4))
    C.mp_arena_free(arena)
  end)
end)

describe("a loop", function()
  it("runs what is posted, in order, and can be stopped from a post", function()
    local loop, seen = C.mp_evloop_new(), {}
    local post = ffi.cast("void (*)(void *)", function(arg) seen[#seen + 1] = tonumber(ffi.cast("intptr_t", arg)) end)
    for i = 1, 5 do
      C.mp_evloop_post(loop, post, ffi.cast("void *", i))
    end
    C.mp_evloop_stop(loop)
    C.mp_evloop_run(loop)
    assert.same({ 1, 2, 3, 4, 5 }, seen)
    C.mp_evloop_post(loop, post, ffi.cast("void *", 6))
    C.mp_evloop_free(loop)
    assert.equal(6, seen[6])
    post:free()
  end)
end)
