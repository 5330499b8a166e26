-- luacheck: no max line length (cases and expected texts stand on one line each)
--- core/script/run.c, answer.c, lua_req.c, lua_res.c: what a handler sees and what becomes of what it returns.
local script = require "spec.support.script"

--- One handler at POST /x.
local function handler(body, opts)
  return script.app((opts and opts.before or "") .. "\nmp.endpoint { " .. (opts and opts.keys or "")
    .. "route = '" .. (opts and opts.route or "POST /x") .. "', handle = function(req, res, input) " .. body .. "\nend }", opts)
end

local function answer(body, request, opts)
  local app = handler(body, opts)
  request = request or {}
  request.path = request.path or "/x"
  local r = app:request(request)
  app:close()
  assert.is_true(r.ended)
  return r
end

describe("what a handler returns", function()
  it("is JSON for a table", function()
    local r = answer "return { a = 1, list = mp.json.array {}, none = mp.null }"
    assert.equal(200, r.status)
    assert.equal('{"a":1,"list":[],"none":null}', r.body)
    assert.equal("application/json", r.headers["content-type"])
  end)

  it("is text for a string", function()
    local r = answer "return 'hé'"
    assert.equal(200, r.status)
    assert.equal("hé", r.body)
    assert.equal("text/plain; charset=utf-8", r.headers["content-type"])
  end)

  it("is what mp.reply says", function()
    local r = answer [[return mp.reply { status = 201, headers = { ["X-Votes"] = 2, vary = { "a", "b" } }, json = { 1 } }]]
    assert.equal(201, r.status)
    assert.equal("[1]", r.body)
    assert.equal("2", r.headers["x-votes"])
    assert.equal("a, b", r.headers.vary)
    assert.equal("application/json", r.headers["content-type"])
    r = answer [[return mp.reply { text = "hi", headers = { ["content-type"] = "text/css" } }]]
    assert.equal("text/css", r.headers["content-type"])
    r = answer [[return mp.reply { body = "\0\1" }]]
    assert.equal("\0\1", r.body)
    assert.equal("application/octet-stream", r.headers["content-type"])
    r = answer [[return mp.reply { status = 204 }]]
    assert.equal(204, r.status)
    assert.equal("", r.body)
    r = answer [[return mp.reply { json = mp.null }]]
    assert.equal("null", r.body)
  end)

  it("takes status and headers from res", function()
    local r = answer [[res:status(202):header("X-A", 1):header("x-a", "2") return {}]]
    assert.equal(202, r.status)
    assert.equal("2", r.headers["x-a"])
    assert.equal("{}", r.body)
  end)

  it("is an error with its own status for nil, err", function()
    local r = answer [[return nil, { code = "teapot", message = "short and stout", status = 418, retry_after = 1.2 }]]
    assert.equal(418, r.status)
    assert.equal('{"error":{"code":"teapot","message":"short and stout","status":418,"request_id":"req-1"}}', r.body)
    assert.equal("2", r.headers["retry-after"])
    assert.equal("application/json", r.headers["content-type"])
  end)

  it("knows the status of the house's own codes", function()
    assert.equal(429, answer([[return nil, { code = "queue_full", message = "m" }]]).status)
    assert.equal(500, answer([[return nil, { code = "whatever", message = "m" }]]).status)
    assert.equal(500, answer([[return nil, { code = "x", message = "m", status = 200 }]]).status)
    local r = answer [[return nil, "that did not work"]]
    assert.equal(500, r.status)
    assert.equal("that did not work", r:json().error.message)
  end)

  it("may be raised as well", function()
    local r = answer [[assert(nil, { code = "not_found", message = "no such thing" })]]
    assert.equal(404, r.status)
    assert.equal("no such thing", r:json().error.message)
  end)

  it("is a 500 that tells the client nothing when the script fails", function()
    for _, body in ipairs {
      "error 'secret'", "local x = nil; return x.y", "return", "return nil", "return 3", "return true", "return print",
      "return { f = print }", "return { 1, a = 2 }", "return { x = 0/0 }", "error({})", "return nil, 3", "coroutine.yield(1) return {}",
      "return mp.reply { stat = 1 }", "return mp.reply { json = 1, text = '' }", "return mp.reply { status = 99 }",
      "return mp.reply { headers = { connection = 'x' } }", "return mp.reply { headers = { a = 'x\\ny' } }",
      "return mp.reply { headers = { ['a b'] = 'x' } }", "return mp.reply { text = 3 }", "res:status(1)", "res:header('date', 'x')",
      "return req.foo", "req.foo = 1", "mp.foo()", "mp.endpoint {}", "mp.model 'x'", "mp.read_file 'x'", "error()", "error(nil)",
      "local function f() return f() + 1 end return f()", "return string.rep('x', -1) .. nil",
    } do
      local r = answer(body)
      assert.equal(500, r.status, body)
      local e = r:json().error
      assert.equal("script_error", e.code, body)
      assert.equal("the request's script failed", e.message, body)
      assert.equal("req-1", e.request_id)
    end
  end)

  it("goes on after a failure, on the same worker", function()
    local app = handler "if req.query.bad then error 'x' end return { ok = true }"
    for _ = 1, 3 do
      assert.equal(500, app:request({ path = "/x", query = "bad=1" }).status)
      assert.equal(200, app:request({ path = "/x" }).status)
    end
    app:close()
  end)
end)

describe("req", function()
  it("has the request's parts as plain values and tables", function()
    local r = answer([[return { req.method, req.path, req.remote, req.id, req.params.id, req.query.q, req.query.e, req.headers["x-a"],
      req.headers.cookie, type(req.ctx), tostring(req.tenant), req.query == req.query }]], {
      path = "/m/a%2Fb", method = "PUT", query = "q=a+b%21&q=2&e", headers = { { "x-a", "1" }, { "x-a", "2" }, { "cookie", "a" }, { "cookie", "b" } },
    }, { route = "PUT /m/{id}" })
    assert.same({ "PUT", "/m/a%2Fb", "127.0.0.1:5", "req-1", "a/b", "a b!", "", "1, 2", "a; b", "table", "nil", true }, r:json())
  end)

  it("decodes a JSON body, or says where it is wrong", function()
    assert.equal('{"a":[1,null]}', answer("return { a = req:json().a }", { body = '{"a":[1,null]}' }).body)
    local r = answer("return req:json()", { body = '{"a":' })
    assert.equal(400, r.status)
    assert.equal("the body is not usable JSON: line 1, column 6: the text ends where a value should stand", r:json().error.message)
    assert.equal("bad_format", r:json().error.code)
    assert.equal(400, answer("return req:json()", { body = '"\255"' }).status)
    assert.equal(400, answer("return req:json()", { body = "" }).status)
    assert.equal(400, answer("return req:json()", { body = "[18446744073709551615]" }).status)
  end)

  it("bounds the values of a body", function()
    local r = answer("return req:json()", { body = "[1,2,3,4]" }, { before = "mp.server { limits = { json_values = 4 } }" })
    assert.equal(400, r.status)
    assert.equal("limit_exceeded", r:json().error.code)
  end)

  it("gives the body as bytes, and as text only when it is text", function()
    assert.equal("a\0b", answer("return mp.reply { body = req:body() }", { body = "a\0b" }).body)
    assert.equal("é", answer("return req:text()", { body = "é" }).body)
    local r = answer("return req:text()", { body = "a\255" })
    assert.equal(400, r.status)
    assert.equal("the body is not UTF-8: byte 1 is bad", r:json().error.message)
  end)

  it("is dead when its request is over", function()
    local app = handler([[if kept[1] then
        local _, a = pcall(function() return kept[1].path end)
        local _, b = pcall(function() return kept[1]:json() end)
        local _, c = pcall(function() return kept[2]:status(200) end)
        local _, d = pcall(function() return kept[3]:send "x" end)
        return { a, b, c, d }
      end
      kept[1], kept[2], kept[3] = req, res, res:events()]], { before = "local kept = {}" })
    app:request { path = "/x" }
    local r = app:request { path = "/x" }
    for i, what in ipairs { "req", "req:json", "res:status", "events:send" } do
      assert.matches(what .. " cannot be used when its request is over$", r:json()[i])
    end
    app:close()
  end)

  it("suggests the name that was meant", function()
    local r = answer "local _, e = pcall(function() return req.heders end) return e"
    assert.matches("req.heders is unknown: did you mean req.headers%?$", r.body)
  end)
end)

describe("an endpoint's input", function()
  local keys = [[input = { topic = { "string", max = 5 }, style = { enum = { "haiku", "ode" }, default = "haiku" }, n = { "integer", min = 1,
    max = 3, optional = true }, wait = { "seconds", optional = true }, tags = { "list", of = { "string", min = 1 }, max = 2, optional = true },
    deep = { "table", fields = { a = "number" }, optional = true }, yes = { "boolean", optional = true } }, ]]
  local function input(body, request)
    request = request or {}
    request.body = body
    return answer("return input", request, { keys = keys })
  end

  it("is checked and completed", function()
    assert.equal('{"style":"haiku","topic":"sea"}', input('{"topic":"sea"}').body)
    assert.equal('{"deep":{"a":1.5},"n":2,"style":"ode","tags":["x"],"topic":"","wait":300,"yes":false}',
      input('{"topic":"","style":"ode","n":2,"wait":"5m","tags":["x"],"deep":{"a":1.5},"yes":false}').body)
    assert.equal('{"style":"haiku","topic":"ééééé"}', input('{"topic":"ééééé","style":null}').body)
  end)

  it("is refused by name", function()
    for body, expect in pairs {
      ["{}"] = { "missing field 'topic'", "topic" },
      ['{"topic":3}'] = { "'topic' must be a string, not a number", "topic" },
      ['{"topic":null}'] = { "missing field 'topic'", "topic" },
      ['{"topic":"toolong"}'] = { "'topic' must have at most 5 characters, not 7", "topic" },
      ['{"topic":"a","style":"hiku"}'] = { "'style' must be one of \"haiku\", \"ode\", not \"hiku\": did you mean \"haiku\"?", "style" },
      ['{"topic":"a","n":4}'] = { "'n' must be between 1 and 3, not 4", "n" },
      ['{"topic":"a","n":1.5}'] = { "'n' must be a whole number, not 1.5", "n" },
      ['{"topic":"a","n":"1"}'] = { "'n' must be a whole number, not \"1\"", "n" },
      ['{"topic":"a","tags":["x",""]}'] = { "'tags[2]' must not be empty", "tags[2]" },
      ['{"topic":"a","tags":["x","y","z"]}'] = { "'tags' must have at most 2 items, not 3", "tags" },
      ['{"topic":"a","tags":{"a":1}}'] = { "'tags' must be a list: values without keys or holes", "tags" },
      ['{"topic":"a","deep":{"a":"x"}}'] = { "'deep.a' must be a number, not \"x\"", "deep.a" },
      ['{"topic":"a","deep":{}}'] = { "missing field 'deep.a'", "deep.a" },
      ['{"topic":"a","yes":1}'] = { "'yes' must be true or false, not a number", "yes" },
      ['{"topic":"a","topik":1}'] = { "unknown field 'topik': did you mean 'topic' (string)?", "topik" },
      ["[]"] = { "missing field 'topic'", "topic" },
      ["3"] = { "the body must be a JSON object, not number" },
      ["null"] = { "the body must be a JSON object, not null" },
    } do
      local r = input(body)
      assert.equal(400, r.status, body)
      assert.equal(expect[1], r:json().error.message)
      assert.equal(expect[2], r:json().error.param)
      assert.equal("invalid_argument", r:json().error.code)
    end
    assert.equal(400, input("{").status)
  end)

  it("comes from the query for GET", function()
    local app = handler("return input", { route = "GET /x", keys = keys })
    local r = app:request { method = "GET", path = "/x", query = "topic=a&n=2&yes=true&wait=1h" }
    assert.equal('{"n":2,"style":"haiku","topic":"a","wait":3600,"yes":true}', r.body)
    r = app:request { method = "GET", path = "/x", query = "topic=a&n=two" }
    assert.equal("'n' must be a whole number, not \"two\"", r:json().error.message)
    r = app:request { method = "GET", path = "/x", query = "topic=%ff" }
    assert.equal(400, r.status)
    app:close()
  end)
end)

describe("plugins", function()
  local before = [[
    mp.plugin "outer" { version = "1", api = 1, config = { tag = { "string", default = "o" } },
      admit = function(conf, req) if req.query.deny then return nil, { code = "no", message = "denied", status = 403 } end
        req.ctx.log = { conf.tag } return true end,
      handle = function(conf, req, res, next)
        table.insert(req.ctx.log, "in") local r, err = next() table.insert(req.ctx.log, "out")
        if r then r.log = req.ctx.log end return r, err end }
    mp.plugin "inner" { version = "1", api = 1, handle = function(_, req, _, next)
      table.insert(req.ctx.log, "inner") if req.query.twice then next() end return next() end }
    mp.server { use = { { "outer", tag = "T" } } } ]]

  it("are an onion, in the order of the lists", function()
    local app = handler("return { x = input.a }", { before = before, keys = "use = { 'inner' }, input = { a = 'number' }, " })
    assert.equal('{"log":["T","in","inner","out"],"x":1}', app:request({ path = "/x", json = { a = 1 } }).body)
    local r = app:request { path = "/x", query = "deny=1", body = "" }
    assert.equal(403, r.status)
    assert.equal("denied", r:json().error.message)
    r = app:request { path = "/x", json = { a = "1" } }
    assert.equal(400, r.status)
    assert.equal(500, app:request({ path = "/x", json = { a = 1 }, query = "twice=1" }).status)
    app:close()
  end)

  it("bring routes, read from a folder beside the configuration", function()
    local app = script.app("mp.server { use = { 'extra' } }", { files = { ["conf/plugins/extra/init.lua"] = [[
      local mp = require "moonpool"
      local helper = require "plugins.extra.helper"
      return mp.plugin "extra" { version = "1", api = 1, routes = {
        { route = "GET /extra/{n}", handle = function(req) return { helper(req.params.n) } end } } }]],
      ["conf/plugins/extra/helper.lua"] = "return function(n) return n * 2 end" } })
    assert.equal("[6]", app:request({ method = "GET", path = "/extra/3" }).body)
    app:close()
  end)
end)

describe("events by hand", function()
  it("send JSON and text", function()
    local r = answer [[local e = res:status(201):header("x-a", "b"):events()
      assert(e == res:events())
      assert(e:send { text = "a" }) assert(e:send "two\nlines") return]]
    assert.equal(201, r.status)
    assert.equal("b", r.headers["x-a"])
    assert.equal('data: {"text":"a"}\n\ndata: two\ndata: lines\n\n', r.body)
    assert.equal("whole", r.finished)
  end)

  it("wait while the client is slow, and go on", function()
    local app = handler [[local e = res:events() for i = 1, 3 do assert(e:send { i = i }) end]]
    local r = app:request { path = "/x", slow = true }
    assert.same({ '{"i":1}' }, r.events)
    assert.is_nil(r.ended)
    script.C.mp_exchange_writable(r.x)
    assert.same({ '{"i":1}', '{"i":2}' }, r.events)
    r:writable()
    assert.same({ '{"i":1}', '{"i":2}', '{"i":3}' }, r.events)
    assert.equal("whole", r.finished)
    assert.is_true(r.ended)
    app:close()
  end)

  it("end with nil, err when the client leaves", function()
    local app = handler([[local e = res:events()
      for i = 1, 3 do local ok, err = e:send { i = i } if not ok then seen[1] = err.code .. " " .. i break end end
      local ok, err = e:send { again = true } seen[2] = tostring(err)
      local ok, err = mp.sleep(10) seen[3] = err.code]], { before = "local seen = {} mp.endpoint { route = 'GET /seen', handle = function() return seen end }" })
    local r = app:request { path = "/x", slow = true }
    r:leave()
    assert.is_true(r.ended)
    assert.is_nil(r.finished)
    assert.equal('["closed 1","the client has left","closed"]', app:request({ method = "GET", path = "/seen" }).body)
    app:close()
  end)

  it("end with an error event when the handler fails", function()
    local r = answer [[res:events():send { a = 1 } error "secret"]]
    assert.equal(200, r.status)
    assert.equal('{"error":{"code":"script_error","message":"the request\'s script failed","status":500,"request_id":"req-1"}}', r.events[2])
    assert.equal("whole", r.finished)
    r = answer [[res:events() return nil, { code = "late", message = "m", status = 409 }]]
    assert.equal('{"error":{"code":"late","message":"m","status":409,"request_id":"req-1"}}', r.events[1])
    r = answer [[res:events() return { a = 1 }]]
    assert.matches("script_error", r.events[1])
  end)

  it("refuse what has no form", function()
    for _, what in ipairs { "3", "nil", "{ f = print }" } do
      assert.matches("script_error", answer("res:events():send(" .. what .. ")").events[1])
    end
    assert.matches("res:status cannot be used after res:events%(%)$",
      answer("res:events() local _, e = pcall(res.status, res, 200) res:events():send(e)").events[1])
  end)
end)

describe("waiting", function()
  it("lets other requests run", function()
    local app = handler [[if req.query.slow then assert(mp.sleep(0.02)) end order[#order + 1] = req.query.n return order]]
    app:close()
    app = handler([[if req.query.slow then assert(mp.sleep(0.02)) end order[#order + 1] = req.query.n return order]], { before = "local order = {}" })
    local slow = app:request { path = "/x", query = "n=1&slow" }
    local quick = app:request { path = "/x", query = "n=2" }
    assert.equal('["2"]', quick.body)
    assert.equal('["2","1"]', slow:wait().body)
    app:close()
  end)

  it("works inside coroutines, pcall and metamethods of the script's own", function()
    local app = handler [[
      local log = {}
      local inner = coroutine.wrap(function(a)
        mp.sleep(0.001) log[1] = a
        local b = coroutine.yield "y1" log[2] = b
        local co = coroutine.create(function() mp.sleep(0.001) coroutine.yield "deep" return "end" end)
        local _, deep = coroutine.resume(co) log[3] = deep
        local _, last = coroutine.resume(co) log[4] = last log[5] = coroutine.status(co)
        return "done"
      end)
      log[6] = inner "a" log[7] = inner "b"
      log[8] = select(2, pcall(function() mp.sleep(0.001) error("e", 0) end))
      log[9] = (setmetatable({}, { __add = function() mp.sleep(0.001) return "m" end }) + 1)
      local ok, err = coroutine.resume(coroutine.create(function() mp.sleep(0.001) error("x", 0) end)) log[10] = err
      return log]]
    assert.equal('["a","b","deep","end","dead","y1","done","e","m","x"]', app:request({ path = "/x" }):wait().body)
    app:close()
  end)

  it("is cut when the client leaves, with nil, err", function()
    local app = handler([[local ok, err = mp.sleep(60) seen[1] = err.code seen[2] = err.status return {}]],
      { before = "local seen = {} mp.endpoint { route = 'GET /seen', handle = function() return seen end }" })
    local r = app:request { path = "/x" }
    r:leave()
    assert.is_true(r.ended)
    assert.is_nil(r.status)
    assert.equal('["closed",499]', app:request({ method = "GET", path = "/seen" }).body)
    app:close()
  end)

  it("is abandoned when the worker stops: 503", function()
    local app = handler [[mp.sleep(60) return {}]]
    local r = app:request { path = "/x" }
    script.C.mp_script_worker_cancel(app.worker, nil, "MP_CANCEL_SHUTDOWN")
    assert.equal(503, r.status)
    assert.equal("the server is stopping", r:json().error.message)
    assert.equal("1", r.headers["retry-after"])
    app:close()
  end)

  it("names the phase it is for", function()
    assert.matches("conf/moonpool.lua:2: mp.sleep cannot be used while the configuration loads %(allowed: in a handler%)",
      script.problems "mp.sleep(1)")
  end)
end)

describe("mp.all", function()
  it("runs side by side", function()
    local app = handler [[
      local log = {}
      local out = assert(mp.all {
        a = function() mp.sleep(0.02) log[#log + 1] = "a" return 1 end,
        b = function() mp.sleep(0.005) log[#log + 1] = "b" return 2, "ignored" end,
        c = function() return nil end,
      })
      return { out = out, log = log, none = mp.all {} }]]
    assert.equal('{"log":["b","a"],"none":{},"out":{"a":1,"b":2}}', app:request({ path = "/x" }):wait().body)
    app:close()
  end)

  it("ends with the first failure and cancels the rest", function()
    local app = handler [[
      local after = false
      local out, err = mp.all {
        a = function() mp.sleep(60) after = true return 1 end,
        b = function() mp.sleep(0.001) return nil, { code = "b", message = "m", status = 409 } end,
      }
      return { out == nil, err.code, after }]]
    assert.equal('[true,"b",false]', app:request({ path = "/x" }):wait().body)
    app:close()
  end)

  it("takes assert's errors too; mistakes are the handler's", function()
    assert.equal(409, answer([[return mp.all { function() assert(nil, { code = "b", message = "m", status = 409 }) end }]]).status)
    assert.equal(500, answer([[return mp.all { function() error "x" end }]]).status)
    assert.equal(500, answer([[return mp.all { 3 }]]).status)
    assert.equal(500, answer([[return mp.all(3)]]).status)
  end)

  it("nests, and works in loops without end of the C stack", function()
    local r = answer([[local n = 0
      for i = 1, 500 do local out = assert(mp.all { function() return (assert(mp.all { function() return 1 end }))[1] end }) n = n + out[1] end
      return { n }]], nil, { before = 'mp.server { limits = { burst = 5, cpu = 20 } }' })
    assert.equal("[500]", r.body)
  end)

  it("is over when the client leaves", function()
    local app = handler([[local out, err = mp.all { function() return mp.sleep(60) end, function() return mp.sleep(60) end } seen[1] = err.code]],
      { before = "local seen = {} mp.endpoint { route = 'GET /seen', handle = function() return seen end }" })
    local r = app:request { path = "/x" }
    r:leave()
    assert.is_true(r.ended)
    assert.equal('["closed"]', app:request({ method = "GET", path = "/seen" }).body)
    app:close()
  end)
end)

describe("small things", function()
  it("are there", function()
    local r = answer [[return { mp.time() > 1.7e9, mp.uuid():match("^%x+%-%x+%-4%x+%-[89ab]%x+%-%x+$") ~= nil, #mp.uuid(), mp.uuid() ~= mp.uuid(),
      mp.env("NOBODY_SETS_THIS") == nil, type(mp.env "PATH"), mp.json.decode "[1]"[1], mp.json.encode { a = 1 }, require "moonpool" == mp }]]
    assert.equal('[true,true,36,true,true,"string",1,"{\\"a\\":1}",true]', r.body)
  end)

  it("stand in the reference, all of them and no others", function()
    local api = assert(loadfile "lua/moonpool/api.lua")()
    local function keys(t)
      local list = {}
      for k, v in pairs(t) do
        list[#list + 1] = k
        if (k == "log" or k == "json") then
          for inner in pairs(v) do
            list[#list + 1] = k .. "." .. inner
          end
        end
      end
      table.sort(list)
      return table.concat(list, " ")
    end
    api.null, api.models, api.json.null = true, {}, true
    local r = answer [[local list = {}
      for k, v in pairs(mp) do
        list[#list + 1] = k
        if k == "log" or k == "json" then for inner in pairs(v) do list[#list + 1] = k .. "." .. inner end end
      end
      table.sort(list) return table.concat(list, " ")]]
    local later = { budget = true }
    local real = r.body:gsub("%S+ ?", function(word)
      return later[word:match "%S+"] and "" or nil
    end)
    assert.equal(keys(api), real)
  end)
end)
