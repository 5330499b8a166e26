-- luacheck: no max line length (cases and expected texts stand on one line each)
--- core/script/shared.c, lua_shared.c: mp.shared, over workers and generations.
local script = require "spec.support.script"
local C, ffi = require "spec.support.ffi"("core/script/shared.h", "core/script/run.h")

local app
after_each(function()
  if app then
    app:close()
    app = nil
  end
  C.mp_shared_declare(nil)
  assert.equal(0, tonumber(C.mp_shared_total()))
end)

--- An endpoint per name; `d` is the dictionary.
local function with(endpoints, opts)
  local text = { ("local d = mp.shared 'd' { bytes = '%s' }"):format(opts and opts.bytes or "1MiB") }
  for name, body in pairs(endpoints) do
    text[#text + 1] = ("mp.endpoint { route = 'POST /%s', handle = function(req) %s end }"):format(name, body)
  end
  app = script.app(table.concat(text, "\n"), opts)
  return app
end

local function answer(body, opts)
  local a = with({ x = body }, opts)
  local r = a:request({ path = "/x" }):wait()
  return r:json(), r
end

describe("mp.shared", function()
  it("keeps strings, numbers, booleans and tables", function()
    assert.same({ "a\0b", 1.5, false, { list = { 1, "x", {} }, deep = { a = { b = true } } }, "nil", true }, (answer [[
      d:set("s", "a\0b") d:set("n", 1.5) d:set("b", false) d:set("t", { list = { 1, "x", mp.json.array {} }, deep = { a = { b = true } } })
      d:set("null", mp.null)
      return { d:get "s", d:get "n", d:get "b", d:get "t", tostring(d:get "none"), d:get "null" == mp.null } ]]))
  end)

  it("adds, compares and swaps, deletes", function()
    assert.same({ true, false, 1, false, true, 2, false, true, true, { 1 }, true, false }, (answer [[
      local out = { d:add("k", 1), d:add("k", 5), d:get "k", d:cas("k", 9, 2), d:cas("k", 1, 2), d:get "k" }
      out[7], out[8] = d:cas("k", nil, 3), d:cas("new", nil, { 1 })
      out[9] = d:cas("new", { 1 }, { 1 })
      out[10], out[11], out[12] = d:get "new", d:del "new", d:del "new"
      return out ]]))
  end)

  it("counts", function()
    local r = answer [[
      local a, b, c = d:incr "n", d:incr("n", 2.5), d:incr("m", 1, { init = 10 })
      d:set("s", "x")
      local none, err = d:incr "s"
      d:set("big", 1e308)
      local _, too = d:incr("big", 1e308)
      return { a, b, c, tostring(none), err.code, err.message, too.message } ]]
    assert.same({ 1, 3.5, 11, "nil", "invalid_argument", "it does not hold a number", "the sum is not a finite number" }, r)
  end)

  it("forgets what is past its time", function()
    assert.same({ 7, "nil", "nil", true, false, "inf", true, "nil", true, true }, (answer [[
      d:set("a", 7, { ttl = 0.05 })
      local out = { d:get "a" }
      mp.sleep(0.06)
      out[2], out[3] = tostring(d:get "a"), tostring(d:ttl "a")
      out[4] = d:add("a", 1)
      out[5] = d:ttl("none", 5)
      out[6] = tostring(d:ttl "a")
      out[7] = d:ttl("a", "10ms")
      mp.sleep(0.02)
      out[8] = tostring(d:get "a")
      d:incr("c", 1, { ttl = "1m" }) d:incr("c", 1, { ttl = 5 })
      out[9] = d:ttl "c" > 50
      d:ttl("c", math.huge)
      out[10] = d:ttl "c" == math.huge
      return out ]]))
  end)

  it("lists its keys, last used first", function()
    assert.same({ { "a", "c", "b" }, { "a" } }, (answer [[
      d:set("a", 1) d:set("b", 1) d:set("c", 1) d:get "a"
      return { d:keys(), d:keys(1) } ]]))
  end)

  it("says what is wrong with a call", function()
    for call, text in pairs {
      ["d:set('a')"] = "shared:set: the value is nil: a key is taken away by del",
      ["d:set('a', print)"] = "shared:set: a function cannot be shared: strings, numbers, booleans and tables can",
      ["d:set('a', { x = print })"] = "shared:set: the value has no JSON form: x: a function has no JSON form",
      ["d:set(1, 2)"] = "shared:set: the key must be a string, not a number",
      ["d:get('')"] = "shared:get: a key has 1 to 1024 bytes, not 0",
      ["d:get(('x'):rep(1025))"] = "shared:get: a key has 1 to 1024 bytes, not 1025",
      ["d.get('a')"] = "shared:get: write it with a colon, on what mp.shared gave",
      ["d:set('a', 1, 5)"] = "shared:set: options must be a table like { ttl = 60 }, not a number",
      ["d:set('a', 1, { tll = 5 })"] = "shared:set: unknown option 'tll' (it has: ttl)",
      ["d:incr('a', 1, { x = 5 })"] = "shared:incr: unknown option 'x' (it has: ttl, init)",
      ["d:incr('a', 'b')"] = "shared:incr: by must be a number, not a string",
      ["d:incr('a', 1, { init = 'x' })"] = "shared:incr: init must be a number, not a string",
      ["d:set('a', 1, { ttl = 0 })"] = 'shared:set: ttl must be seconds above 0 (a number, or text like "5m")',
      ["d:set('a', 1, { ttl = 'soon' })"] = 'shared:set: ttl must be seconds above 0 (a number, or text like "5m")',
      ["d:keys(0)"] = "shared:keys: n must be a number between 1 and 1000",
      ["d:getx('a')"] = "a shared dictionary has no 'getx' (it has: get, set, add, incr, cas, ttl, del, keys, fetch)",
      ["d:fetch('a', {})"] = "shared:fetch: what computes the value must be a function, not a nil",
      ["d:fetch('a', { init = 1 }, print)"] = "shared:fetch: unknown option 'init' (it has: ttl)",
    } do
      local r = answer("local ok, err = pcall(function() " .. call .. " end) return { ok, (err:gsub('^.-%d+: ', '')) }")
      assert.same({ false, text }, r)
      app:close()
      app = nil
    end
  end)

  it("cannot be used while the configuration loads", function()
    assert.matches("shared:get cannot be used while the configuration loads (allowed: in a handler)",
      script.problems "local d = mp.shared 'd' {} d:get 'x'", nil, true)
  end)

  it("is declared once, with bytes", function()
    local p = script.problems
    assert.matches("mp.shared \"d\": the name is taken by the shared at", p "mp.shared 'd' {} mp.shared 'd' {}", nil, true)
    assert.matches("mp.shared \"d\": 'bytes' must be between 64KiB and 1024GiB, not 1KiB", p "mp.shared 'd' { bytes = '1KiB' }", nil, true)
    assert.matches("mp.shared \"d\": unknown key 'size'", p "mp.shared 'd' { size = 1 }", nil, true)
  end)

  it("never holds more than its bytes, and lets go what was not used for longest", function()
    local r = answer([[
      local _, err = d:set("huge", ("x"):rep(65536))
      d:set("keep", "k")
      local most = 0
      for i = 1, 2000 do
        d:set("key" .. i, ("v"):rep(i % 50))
        d:get "keep"
        if i % 500 == 0 then mp.sleep(0) end
      end
      return { err.code, err.message, d:get "keep", tostring(d:get "key1"), #d:keys(1000) } ]], { bytes = "64KiB" })
    assert.same({ "limit_exceeded", 'a value of 65537 bytes does not fit into shared dictionary "d" (65536 bytes in all)', "k", "nil" },
      { r[1], r[2], r[3], r[4] })
    local s, st = C.mp_shared_open("d", 1), ffi.new "struct mp_shared_status"
    C.mp_shared_status(s, st)
    assert.is_true(st.used <= st.bytes and st.used > 0.9 * tonumber(st.bytes), "used " .. tonumber(st.used))
    assert.equal(r[5], tonumber(st.entries))
    assert.equal(2001, tonumber(st.entries + st.evicted))
    assert.equal(tonumber(st.used), tonumber(C.mp_shared_total()))
    C.mp_shared_close(s)
  end)

  it("counts what malloc gives it", function()
    -- 20,000 entries of 100 bytes: what the process takes for them is no more than what the dictionary says.
    local s = C.mp_shared_open("d", 64 * 1048576)
    local err, value = ffi.new "struct mp_err", ("v"):rep(100)
    local function rss()
      local f = io.open "/proc/self/statm"
      local pages = f:read("*a"):match "%d+ (%d+)"
      f:close()
      return tonumber(pages) * 4096
    end
    local before = rss()
    for i = 1, 20000 do
      local key = "key" .. i
      assert(C.mp_shared_set(s, key, #key, value, #value, 0, 1, "MP_SHARED_ALWAYS", err) == 1)
    end
    local used = tonumber(C.mp_shared_total())
    if not os.getenv "MOONPOOL_SANITIZE" or os.getenv "MOONPOOL_SANITIZE" == "" then
      assert.is_true(rss() - before < used * 1.1 + 1048576, ("%d bytes said, %d taken"):format(used, rss() - before))
    end
    C.mp_shared_close(s)
  end)

  it("survives a reload, gets its new size then, and is forgotten when nobody declares it", function()
    local function build(bytes)
      return script.app(("local d = mp.shared 'd' { bytes = '%s' } mp.endpoint { route = 'POST /x', handle = function(req) return { d:get 'k', #d:keys(1000) } end }"):format(bytes))
    end
    with { fill = "local n = tonumber(req.query.n) for i = n, n + 99 do d:set('k' .. i, ('x'):rep(500)) end d:set('k', 'v') return {}" }
    C.mp_shared_declare(C.mp_generation_config(app.generation))
    for n = 1, 901, 100 do -- each within its burst of CPU time
      assert.equal(200, app:request({ path = "/fill", query = "n=" .. n }).status)
    end
    local big = tonumber(C.mp_shared_total())
    local after = build "128KiB"
    finally(function() after:close() end)
    assert.same({ "v", 1000 }, after:request({ path = "/x" }):json()) -- not by being built: by being swapped in
    C.mp_shared_declare(C.mp_generation_config(after.generation))
    assert.is_true(tonumber(C.mp_shared_total()) <= 131072 and big > 500000)
    local r = after:request({ path = "/x" }):json()
    assert.equal("v", r[1])
    assert.is_true(r[2] > 150 and r[2] < 260)
    assert.is_true(tonumber(C.mp_shared_total()) > 0)
  end)

  it("agrees with a table, over random calls", function()
    math.randomseed(3)
    local s, err, b, sum = C.mp_shared_open("d", 65536), ffi.new "struct mp_err", ffi.new "struct mp_buf", ffi.new "double[1]"
    local model, now = {}, 1e9
    local function expired(e)
      return e and e.at and e.at <= now
    end
    for _ = 1, 20000 do
      now = now + math.random(0, 1000)
      local key = "k" .. math.random(40)
      local e = model[key]
      if expired(e) then
        model[key], e = nil, nil
      end
      local what, ttl = math.random(6), math.random(3) == 1 and math.random(20000) or 0
      local at = ttl > 0 and now + ttl or nil
      local v = "s" .. ("v"):rep(math.random(0, 30))
      if what == 1 then
        assert.equal(1, C.mp_shared_set(s, key, #key, v, #v, ttl, now, "MP_SHARED_ALWAYS", err))
        model[key] = { v = v, at = at }
      elseif what == 2 then
        assert.equal(e and 0 or 1, C.mp_shared_set(s, key, #key, v, #v, ttl, now, "MP_SHARED_ABSENT", err))
        model[key] = e or { v = v, at = at }
      elseif what == 3 then
        assert.equal(e ~= nil, C.mp_shared_del(s, key, #key, now))
        model[key] = nil
      elseif what == 4 then
        local old = e and math.random(2) == 1 and e.v or "sother"
        local same = e and e.v == old
        assert.equal(same and 1 or 0, C.mp_shared_cas(s, key, #key, old, #old, v, #v, ttl, now, err))
        if same then
          model[key] = { v = v, at = at }
        end
      elseif what == 5 and not e then
        assert.equal(0, C.mp_shared_incr(s, key, #key, 2, 3, ttl, now, sum, err))
        assert.equal(5, sum[0])
        C.mp_shared_del(s, key, #key, now)
      else
        b.len = 0
        assert.equal(e ~= nil, C.mp_shared_get(s, key, #key, now, b))
        if e then
          assert.equal(e.v, ffi.string(b.data, b.len))
        end
      end
    end
    C.mp_buf_free(b)
    C.mp_shared_close(s)
  end)
end)

describe("shared:fetch", function()
  it("computes once for all that wait", function()
    local a = with { x = [[
      local v, err = d:fetch("k", { ttl = 60 }, function() d:incr "runs" mp.sleep(0.02) return { n = d:get "runs" } end)
      return { v = v, err = err, runs = d:get "runs" }]] }
    local list = {}
    for i = 1, 20 do
      list[i] = a:request { path = "/x" }
    end
    for _, r in ipairs(list) do
      assert.same({ v = { n = 1 }, runs = 1 }, r:wait():json())
    end
    assert.same({ v = { n = 1 }, runs = 1 }, a:request({ path = "/x" }):json())
  end)

  it("keeps no error, and tells it to those who wait", function()
    local a = with { x = [[
      local v, err = d:fetch("k", {}, function() d:incr "runs" mp.sleep(0.01) return nil, { code = "teapot", message = "short", status = 418, retry_after = 3 } end)
      return { tostring(v), err.code, tostring(err), err.status, err.retry_after, d:get "runs" }]] }
    local one, two = a:request { path = "/x" }, a:request { path = "/x" }
    assert.same({ "nil", "teapot", "table", 418, 3, 1 }, (function(t) t[3] = t[3]:match "^table" or t[3] return t end)(one:wait():json()))
    assert.same({ "nil", "teapot", "short", 418, 3, 1 }, two:wait():json())
    assert.equal(2, a:request({ path = "/x" }):wait():json()[6])
  end)

  it("passes on what the function raises", function()
    local a = with { x = [[ return { d:fetch("k", nil, function() mp.sleep(0.01) error(req.query.t and { code = "not_found", message = "gone" } or "oops") end) } ]],
      w = [[ local v, err = d:fetch("k", nil, function() return 1 end) return { v = v, err = err } ]] }
    local one, two = a:request { path = "/x" }, a:request { path = "/w" }
    assert.equal(500, one:wait().status)
    assert.same({ err = { code = "script_error", status = 500, message = "the function that computes a shared value failed" } }, two:wait():json())
    one, two = a:request { path = "/x", query = "t=1" }, a:request { path = "/w" }
    assert.equal(404, one:wait().status)
    assert.same({ err = { code = "not_found", message = "gone" } }, two:wait():json())
    assert.same({ v = 1 }, a:request({ path = "/w" }):json())
  end)

  it("lets another one compute when the one that does dies or leaves", function()
    local a = with { x = [[ return { d:fetch("k", nil, function() d:incr "runs" mp.sleep(0.01) if req.query.die then while true do end end mp.sleep(0.01) return d:get "runs" end) } ]] }
    local die, one, two = a:request { path = "/x", query = "die=1" }, a:request { path = "/x" }, a:request { path = "/x" }
    assert.equal("cpu_limit", die:wait():json().error.code)
    assert.same({ 2 }, one:wait():json())
    assert.same({ 2 }, two:wait():json())
    a:request({ path = "/x" })
    app:close()
    app = nil
    C.mp_shared_declare(nil)
    a = with { x = [[ return { d:fetch("k", nil, function() d:incr "runs" mp.sleep(0.02) return d:get "runs" end) } ]] }
    local first, second, third = a:request { path = "/x" }, a:request { path = "/x" }, a:request { path = "/x" }
    first:leave()
    second:leave() -- it has just been told to compute
    assert.is_true(first.ended and second.ended)
    assert.equal(2, third:wait():json()[1])
  end)

  it("lets another one compute when mp.all gives up on the one that does", function()
    local a = with { x = [[
      local r, err = mp.all { a = function() return d:fetch("k", nil, function() mp.sleep(5) return 1 end) end, b = function() mp.sleep(0.01) return nil, { code = "x", message = "m" } end }
      mp.sleep(0.05)
      return { err.code } ]], y = [[ return { d:fetch("k", nil, function() return 2 end) } ]] }
    local one, two = a:request { path = "/x" }, a:request { path = "/y" }
    assert.same({ 2 }, two:wait():json())
    assert.is_nil(one.ended)
    assert.same({ "x" }, one:wait():json())
  end)

  it("does not wait for itself", function()
    local _, r = answer [[ return { d:fetch("k", nil, function() return d:fetch("k", nil, function() return 1 end) end) } ]]
    assert.equal(500, r.status)
    app:close()
    assert.same({ { 3 } }, { (answer [[ return { d:fetch("k", nil, function() return d:fetch("other", nil, function() return 3 end) end) } ]]) })
  end)

  it("gives those who wait a value that is too large to be kept, too", function()
    local a = with({ x = [[ return { #d:fetch("k", nil, function() d:incr "runs" mp.sleep(0.01) return ("x"):rep(70000) end), d:get "runs" } ]] }, { bytes = "64KiB" })
    local one, two = a:request { path = "/x" }, a:request { path = "/x" }
    assert.same({ 70000, 1 }, one:wait():json())
    assert.same({ 70000, 1 }, two:wait():json())
    assert.same({ 70000, 2 }, a:request({ path = "/x" }):wait():json())
  end)

  it("works after a hundred rounds of everything at once, leaving nothing", function()
    local a = with { x = [[
      local k = "k" .. req.query.k
      local v = d:fetch(k, { ttl = 0.003 }, function() mp.sleep(0.001) if req.query.f then error "x" end return k end)
      return { v } ]] }
    math.randomseed(5)
    local open = {}
    for i = 1, 600 do
      local f = math.random(5) == 1
      local r = a:request { path = "/x", query = "k=" .. math.random(3) .. (f and "&f=1" or "") }
      open[#open + 1] = r
      if math.random(6) == 1 and not r.ended then
        r:leave()
      end
      if i % 6 == 0 then
        C.mp_evloop_turn(a.loop, false)
      end
    end
    for _, r in ipairs(open) do
      r:wait()
    end
  end)
end)
