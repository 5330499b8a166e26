--- core/engine/text.h: what comes out does not depend on how the bytes came in.
local C, ffi = require "spec.support.ffi"("core/engine/text.h", "core/base/utf8.h")

--- Feeds the pieces; returns the text, the stop that ended it (1-based) or nil, and what was shown after each piece.
local function feed(pieces, stops)
  local t, out, spans, keep = ffi.new "struct mp_text", ffi.new "struct mp_buf", ffi.new("struct mp_span[8]"), {}
  for i, s in ipairs(stops or {}) do
    keep[i] = s
    spans[i - 1].p, spans[i - 1].n = s, #s
  end
  C.mp_text_init(t, spans, #(stops or {}))
  local stop, shown = -1, {}
  for i, s in ipairs(pieces) do
    stop = C.mp_text_feed(t, s, #s, out)
    shown[i] = out.len > 0 and ffi.string(out.data, out.len) or ""
    if stop >= 0 then
      break
    end
  end
  if stop < 0 then
    C.mp_text_finish(t, out)
  end
  local text = out.len > 0 and ffi.string(out.data, out.len) or ""
  C.mp_text_free(t)
  C.mp_buf_free(out)
  return text, stop >= 0 and stop + 1 or nil, shown
end

local function bytes(s)
  local list = {}
  for i = 1, #s do
    list[i] = s:sub(i, i)
  end
  return list
end

describe("a completion's text", function()
  it("is shown at once where nothing can come of it", function()
    local _, _, shown = feed({ "Hello", ", ", "world" }, { "###" })
    assert.same({ "Hello", "Hello, ", "Hello, world" }, shown)
  end)

  it("holds back what may begin a stop, and no more", function()
    local text, stop, shown = feed({ "a#", "#b", "#", "##", "x" }, { "###" })
    assert.same({ "a", "a##b", "a##b", "a##b" }, shown)
    assert.same({ "a##b", 1 }, { text, stop })
    assert.equal("a##", (feed({ "a##" }, { "###" })))
  end)

  it("takes the stop that ends first, the longest of those", function()
    for _, case in ipairs {
      { { "xabc" }, { "bc", "abc" }, "x", 2 }, { { "xabc" }, { "b", "abc" }, "xa", 1 }, { { "\n", "\n" }, { "\n\n" }, "", 1 },
    } do
      local text, stop = feed(case[1], case[2])
      assert.same({ case[3], case[4] }, { text, stop })
    end
  end)

  it("never cuts a character, and makes U+FFFD of what is none", function()
    local text, _, shown = feed { "gr\195", "\188n \240\159", "\140", "\138!" }
    assert.same({ "gr", "grün ", "grün ", "grün 🌊!" }, shown)
    assert.equal("grün 🌊!", text)
    assert.equal("a\239\191\189b", (feed { "a\226\130", "b" }))
    assert.equal("\239\191\189", (feed { "\240\159" }))
  end)

  it("comes out the same however it is cut", function()
    local seed = os.time()
    math.randomseed(seed)
    local alphabet = { "a", "b", "ab", "é", "€", "🌊", "\195", "\255", "\159", "aab" }
    for _ = 1, 2000 do
      local s, stops = "", {}
      for _ = 1, math.random(0, 12) do
        s = s .. alphabet[math.random(#alphabet)]
      end
      for i = 1, math.random(0, 3) do
        stops[i] = alphabet[math.random(#alphabet)] .. alphabet[math.random(#alphabet)]
      end
      local whole, stop = feed({ s }, stops)
      local pieces, at = {}, 1
      while at <= #s do
        local n = math.random(1, 4)
        pieces[#pieces + 1] = s:sub(at, at + n - 1)
        at = at + n
      end
      local cut, cut_stop = feed(pieces, stops)
      local single, single_stop = feed(bytes(s), stops)
      assert.same({ whole, stop }, { cut, cut_stop }, "seed " .. seed)
      assert.same({ whole, stop }, { single, single_stop }, "seed " .. seed)
      assert.equal(#whole, tonumber(C.mp_utf8_valid_prefix(whole, #whole)))
    end
  end)
end)
