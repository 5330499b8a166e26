-- luacheck: no max line length (cases and expected texts stand on one line each)
--- core/script/generation.c, route.c: which endpoint a request goes to; pins.
local script = require "spec.support.script"
local C, ffi = script.C, script.ffi

local g
before_each(function()
  local source = {}
  for _, route in ipairs { "GET /", "GET /a", "POST /a", "GET /a/", "GET /a/{x}", "DELETE /a/{x}", "GET /a/b", "GET /a/b/{y}", "PUT /{p}/b/c", "HEAD /h",
    "GET /h", "GET /{p}/{q}/{r}/z", "GET /v1/models/{id}", "GET /é" } do
    source[#source + 1] = ("mp.endpoint { route = %q, handle = print }"):format(route)
  end
  g = assert(script.build(table.concat(source, "\n")))
end)
after_each(function()
  C.mp_generation_free(g)
end)

local function route(method, path)
  local m = ffi.new "struct mp_route_match"
  local rc = C.mp_generation_route(g, method, path, m)
  if rc == C.MP_ROUTE_FOUND then
    local params = {}
    for i = 0, m.n_params - 1 do
      params[i + 1] = ffi.string(m.params[i].name, m.params[i].name_n) .. "=" .. ffi.string(m.params[i].value, m.params[i].n)
    end
    return ffi.string(m.endpoint.route), table.concat(params, " ")
  elseif rc == C.MP_ROUTE_UNKNOWN_METHOD then
    return 405, ffi.string(m.allow)
  end
  return rc == C.MP_ROUTE_BAD_PATH and 400 or 404
end

describe("routes", function()
  it("find the endpoint and its parameters", function()
    for path, expect in pairs {
      ["/"] = { "GET /", "" }, ["/a"] = { "GET /a", "" }, ["/a/"] = { "GET /a/", "" }, ["/a/q"] = { "GET /a/{x}", "x=q" }, ["/a/b"] = { "GET /a/b", "" },
      ["/a/b/c"] = { "GET /a/b/{y}", "y=c" }, ["/a/%62"] = { "GET /a/b", "" }, ["/a/x%2Fy"] = { "GET /a/{x}", "x=x%2Fy" },
      ["/k/l/m/z"] = { "GET /{p}/{q}/{r}/z", "p=k q=l r=m" }, ["/a/b/m/z"] = { "GET /{p}/{q}/{r}/z", "p=a q=b r=m" },
      ["/v1/models/a:b-c.d"] = { "GET /v1/models/{id}", "id=a:b-c.d" }, ["/%C3%A9"] = { "GET /é", "" },
    } do
      assert.same(expect, { route("GET", path) }, path)
    end
    assert.same({ "PUT /{p}/b/c", "p=a" }, { route("PUT", "/a/b/c") })
  end)

  it("answer HEAD by GET unless it has its own", function()
    assert.equal("GET /a", (route("HEAD", "/a")))
    assert.equal("HEAD /h", (route("HEAD", "/h")))
  end)

  it("tell an unknown path from an unknown method", function()
    assert.equal(404, (route("GET", "/nope")))
    assert.equal(404, (route("GET", "/a/b/c/d/e")))
    assert.equal(404, (route("GET", "//")))
    assert.equal(404, (route("GET", "/v1/models/")))
    assert.equal(404, (route("GET", "*")))
    assert.equal(404, (route("GET", ("/x"):rep(40))))
    assert.same({ 405, "GET, HEAD, POST" }, { route("PUT", "/a") })
    assert.same({ 405, "GET, HEAD, DELETE" }, { route("POST", "/a/q") })
    assert.same({ 405, "GET, HEAD" }, { route("BREW", "/") })
  end)

  it("refuse broken escapes and NUL", function()
    for _, path in ipairs { "/%", "/%4", "/%zz", "/a/%00", "/%e" } do
      assert.equal(400, (route("GET", path)), path)
    end
    assert.equal("GET /a/{x}", (route("GET", "/a/" .. ("y"):rep(5000))))
  end)
end)

describe("pins", function()
  it("hold a generation until the last request ends", function()
    C.mp_generation_pin(g)
    C.mp_generation_pin(g)
    assert.equal(2, C.mp_generation_pins(g))
    assert.is_false(C.mp_generation_unpin(g))
    assert.is_false(C.mp_generation_retire(g))
    assert.equal(1, C.mp_generation_pins(g))
    assert.is_false(C.mp_generation_retire(g))
    assert.is_true(C.mp_generation_unpin(g))
  end)

  it("none: retiring it is the end", function()
    assert.is_true(C.mp_generation_retire(g))
  end)
end)
