--- core/net's server beyond the single request: connections, times, back-pressure, clients that leave, stopping.
local Server = require "spec.support.http_server"
local http = require "spec.support.http"
local ffi = require "ffi"
local C = Server.C

ffi.cdef [[
  struct spec_rlimit { unsigned long cur, max; };
  int getrlimit(int resource, struct spec_rlimit *limit);
  int setrlimit(int resource, const struct spec_rlimit *limit);
  int dup(int fd);
]]

local HEAD = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
local MP_ABORT_CLIENT, MP_ABORT_TIMEOUT, MP_ABORT_BODY, MP_ABORT_STOP = 0, 1, 2, 3
local MP_ECLOSED, MP_ESTATE, MP_EINVAL = ffi.C.MP_ECLOSED, ffi.C.MP_ESTATE, ffi.C.MP_EINVAL

local function send(req, text)
  return C.mp_res_send(req, text, #text)
end
local function write(req, text)
  return C.mp_res_write(req, text, #text)
end

describe("core/net's server", function()
  local server

  local function start(opts)
    server = Server.start(opts)
    return server
  end
  --- A server whose handler keeps the request; server.held is the last one.
  local function hold(opts)
    opts = opts or {}
    opts.on_body = function(req, s)
      s.held = req
    end
    opts.on_abort = function(_, s, why)
      s.why = why
    end
    return start(opts)
  end
  after_each(function()
    server:stop()
  end)

  describe("connections", function()
    it("serve many requests, up to their limit", function()
      start { limits = { keepalive_requests = 3 } }
      local c = server:connect()
      assert.is_nil(c:request({}).headers.connection)
      assert.is_nil(c:request({ body = "x" }).headers.connection)
      assert.equal("close", c:request({}).headers.connection)
      assert.equal("", c:rest())
      assert.equal(3, server:count "on_end")
    end)

    it("are closed when idle for too long, without a word", function()
      start { limits = { keepalive_ms = 30 } }
      local fresh, used = server:connect(), server:connect()
      assert.equal(200, used:request({}).status)
      assert.equal("", (fresh:rest()))
      assert.equal("", (used:rest()))
      assert.equal(0, server:gauges().connections)
    end)

    it("beyond the limit wait until one is free", function()
      start { limits = { connections = 2 } }
      local url = server:listen()
      local function connect()
        return http.connect(url, { pump = server.pump })
      end
      local a, b, waiting = connect(), connect(), connect()
      assert.equal(200, a:request({}).status)
      assert.equal(200, b:request({}).status)
      waiting:send(HEAD)
      server:settle()
      assert.equal(2, server:gauges().connections)
      assert.equal("", (waiting:drain()))
      a:close()
      assert.equal(200, waiting:response().status)
      b:close()
      waiting:close()
    end)

    it("are refused cleanly when descriptors run out, and taken again afterwards", function()
      start()
      local url = server:listen()
      local c = http.connect(url) -- in the backlog, not accepted yet
      c.pump = server.pump
      local next_fd = ffi.C.dup(0)
      ffi.C.close(next_fd)
      local before, low = ffi.new "struct spec_rlimit", ffi.new "struct spec_rlimit"
      ffi.C.getrlimit(7, before)
      low.cur, low.max = next_fd, before.max
      ffi.C.setrlimit(7, low)
      local ok, text = pcall(c.rest, c)
      ffi.C.setrlimit(7, before)
      assert.is_true(ok, text)
      assert.equal("", text)
      c:close()
      assert.equal(200, http.request(url, { pump = server.pump }).status)
    end)

    it("tell who the client is", function()
      start { on_body = function(req) send(req, ffi.string(req.remote) .. " " .. ffi.string(req.id)) end }
      local url = server:listen()
      local seen = {}
      for _ = 1, 50 do
        local remote, id = http.request(url, { pump = server.pump }).body:match "^(127%.0%.0%.1:%d+) (%x+)$"
        assert.equal(24, #id)
        assert.is_nil(seen[id])
        seen[id] = remote
      end
      assert.equal("unix", server:connect():request({}).body:match "%S+")
    end)
  end)

  describe("times", function()
    it("bound the headers: 408", function()
      start { limits = { header_ms = 30 } }
      local c = server:connect()
      c:send "GET / HT"
      local r = c:response()
      assert.equal(408, r.status)
      assert.equal("close", r.headers.connection)
      assert.equal("request_timeout", r:json().error.code)
      assert.equal(1, server:gauges().refused)
      c:close()
    end)

    for name, limits in pairs {
      ["without a byte"] = { body_idle_ms = 30 },
      ["in all"] = { body_ms = 30 },
      ["at a rate too low"] = { body_grace_ms = 20, body_rate = 1000 },
    } do
      it("bound the body: " .. name, function()
        hold { limits = limits }
        local c = server:connect()
        c:send "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\nabc"
        local r = c:response()
        assert.equal(408, r.status)
        assert.matches("^%x+$", r:json().error.request_id)
        assert.equal("the body took too long", r:json().error.message)
        assert.equal(MP_ABORT_TIMEOUT, server.why)
        assert.same({ "on_request", "on_abort", "on_end" }, server.events)
        c:close()
      end)
    end

    it("bound a client that does not read", function()
      hold { limits = { write_ms = 50, high_water = 4096 } }
      local c = server:connect()
      c:send(HEAD)
      server:until_true(function() return server.held end)
      C.mp_req_ref(server.held)
      assert.equal(0, C.mp_res_begin(server.held))
      assert.equal(0, write(server.held, ("x"):rep(4 * 1024 * 1024)))
      assert.is_true(C.mp_res_full(server.held))
      server:until_true(function() return server.why end)
      assert.equal(MP_ABORT_TIMEOUT, server.why)
      assert.equal(MP_ECLOSED, write(server.held, "more"))
      assert.equal(200, C.mp_res_code(server.held))
      assert.is_true(tonumber(C.mp_res_sent(server.held)) > 0)
      C.mp_req_unref(server.held)
      c:close()
    end)
  end)

  describe("a body", function()
    it("has the limit that on_request sets", function()
      local limit = 10
      start { on_request = function(req) req.body_limit = limit end, on_abort = function(_, s, why) s.why = why end }
      local c = server:connect()
      assert.equal(200, c:request({ body = ("x"):rep(10) }).status)
      local r = c:request { body = ("x"):rep(11) }
      assert.equal(413, r.status)
      assert.equal("body_too_large", r:json().error.code)
      assert.equal(MP_ABORT_BODY, server.why)
      c:close()
      limit = 2 ^ 30
      c = server:connect()
      local big = ("0123456789"):rep(2000000)
      assert.equal(big, c:request({ body = big }).body:sub(-#big))
      c:close()
    end)

    it("need not be read when the answer comes first", function()
      start { on_request = function(req) C.mp_res_error(req, 401, "unauthorized", "who are you?", 7) end }
      local c = server:connect()
      -- It came with the headers: the connection goes on.
      local r = c:request { body = "small" }
      assert.equal(401, r.status)
      assert.equal("7", r.headers["retry-after"])
      assert.equal("who are you?", r:json().error.message)
      assert.is_nil(r.headers.connection)
      -- It is still coming: the answer arrives all the same, then the connection ends.
      c:send "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n"
      local sent = 0
      for _ = 1, 20 do
        sent = sent + c:send_some(("x"):rep(65536))
        server.pump()
      end
      assert.is_true(sent > 65536)
      r = c:response()
      assert.equal(401, r.status)
      assert.equal("close", r.headers.connection)
      assert.equal(0, server:count "on_body")
      c:close()
    end)
  end)

  describe("a client that leaves", function()
    for name, leave in pairs { FIN = "half_close", RST = "reset" } do
      it("by " .. name .. " aborts its request once", function()
        hold()
        local url = server:listen()
        local c = http.connect(url, { pump = server.pump })
        c:send(HEAD)
        server:until_true(function() return server.held end)
        local req = server.held
        C.mp_req_ref(req)
        c[leave](c)
        server:until_true(function() return server.why end)
        server:settle()
        assert.equal(MP_ABORT_CLIENT, server.why)
        assert.same({ "on_request", "on_body", "on_abort", "on_end" }, server.events)
        assert.equal(MP_ECLOSED, send(req, "late"))
        assert.equal(MP_ECLOSED, C.mp_res_begin(req))
        assert.equal(499, C.mp_res_code(req))
        assert.is_true(C.mp_res_ended(req))
        C.mp_req_unref(req)
        c:close()
      end)
    end

    it("in mid-stream aborts it too", function()
      hold()
      local c = server:connect()
      c:send(HEAD)
      server:until_true(function() return server.held end)
      C.mp_res_begin(server.held)
      write(server.held, "first")
      local r = c:head()
      assert.equal("first", r:chunks()())
      c:half_close()
      server:until_true(function() return server.why end)
      assert.equal(1, server:count "on_abort")
      c:close()
    end)

    it("in mid-body aborts it too", function()
      hold()
      local c = server:connect()
      c:send "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"
      server:settle()
      c:close()
      server:until_true(function() return server.why end)
      assert.same({ "on_request", "on_abort", "on_end" }, server.events)
    end)

    it("with requests waiting behind is seen", function()
      hold()
      local c = server:connect()
      c:send(HEAD .. HEAD .. HEAD)
      server:until_true(function() return server.held end)
      c:half_close()
      server:until_true(function() return server.why end)
      assert.equal(1, server:count "on_request")
      c:close()
    end)

    it("only with its sending half is answered where the route says so", function()
      hold { on_request = function(req) req.half_close = true end }
      local c = server:connect()
      c:send(HEAD)
      c:half_close()
      server:until_true(function() return server.held end)
      server:settle()
      assert.equal(0, server:count "on_abort")
      send(server.held, "there")
      local r = c:response()
      assert.equal("there", r.body)
      assert.equal("close", r.headers.connection)
      assert.equal("", (c:rest()))
      c:close()
    end)

    it("right behind its request gets an answer that is ready at once", function()
      start()
      local c = server:connect()
      c:send(HEAD)
      c:half_close()
      assert.equal(200, c:response().status)
      assert.equal(0, server:count "on_abort")
      c:close()
    end)
  end)

  describe("answers", function()
    it("keep the order of pipelined requests", function()
      hold()
      local c = server:connect()
      c:send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
      for i = 1, 2 do
        server:until_true(function() return server.held end)
        server:settle()
        assert.equal(i, server:count "on_request")
        local req = server.held
        server.held = nil
        send(req, ffi.string(req.path))
        assert.equal("/" .. i, c:response().body)
      end
      c:close()
    end)

    it("refuse headers that would break out", function()
      local texts = {}
      start { on_body = function(req)
        local err = ffi.new "struct mp_err"
        local function try(name, value)
          err.message[0] = 0
          local rc = C.mp_res_header(req, name, #name, value, #value, err)
          texts[#texts + 1] = rc .. " " .. ffi.string(err.message)
        end
        try("x-ok", "a\tb \195\169")
        try("x", "a\r\nb: c")
        try("x", "a\nb")
        try("x", "a\0b")
        try("x y", "a")
        try("", "a")
        try("x:", "a")
        try("Content-Length", "3")
        try("connection", "close")
        assert(C.mp_res_status(req, 99) == MP_EINVAL and C.mp_res_status(req, 600) == MP_EINVAL)
        assert(C.mp_res_header_set(req, "X-OK", 4, "new", 3, err) == 0)
        send(req, "ok")
        assert(C.mp_res_status(req, 200) == MP_ESTATE and send(req, "") == MP_ESTATE)
        try("x", "late")
      end }
      local r = server:connect():request {}
      assert.equal("new", r.headers["x-ok"])
      assert.equal("2", r.headers["content-length"])
      assert.is_nil(r.headers.x)
      assert.same({
        "0 ", "-1 the value of header 'x' holds a control character", "-1 the value of header 'x' holds a control character",
        "-1 the value of header 'x' holds a control character",
        "-1 a header's name must be made of letters, digits and !#$%&'*+-.^_`|~",
        "-1 a header's name must be made of letters, digits and !#$%&'*+-.^_`|~",
        "-1 a header's name must be made of letters, digits and !#$%&'*+-.^_`|~",
        "-1 header 'Content-Length' is set by the server", "-1 header 'connection' is set by the server",
        "-8 the response has begun",
      }, texts)
    end)

    it("have no body where there can be none", function()
      local status = 204
      start { on_body = function(req)
        C.mp_res_status(req, status)
        send(req, "never seen")
      end }
      local c = server:connect()
      local r = c:request {}
      assert.same({ 204, "" }, { r.status, r.body })
      assert.is_nil(r.headers["content-length"])
      status = 304
      assert.equal(304, c:request({}).status)
      status = 200
      assert.equal("10", c:request({ method = "HEAD" }).headers["content-length"])
      assert.equal("never seen", c:request({}).body)
      assert.matches("^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$", r.headers.date)
      c:close()
    end)

    it("stream: one chunk for what one turn wrote", function()
      hold()
      local c = server:connect()
      for _, method in ipairs { "GET", "HEAD" } do
        c:send(method .. " / HTTP/1.1\r\nHost: a\r\n\r\n")
        server:until_true(function() return server.held end)
        local req = server.held
        server.held = nil
        assert.equal(MP_ESTATE, write(req, "too early"))
        C.mp_res_begin(req)
        write(req, "a")
        write(req, "b")
        local r = c:head(method)
        local chunks = r:chunks()
        assert.equal(method == "GET" and "ab" or nil, method == "GET" and chunks() or nil)
        write(req, "c")
        C.mp_res_end(req)
        assert.equal(MP_ESTATE, write(req, "too late"))
        assert.equal(method == "GET" and "c" or nil, (chunks()))
        assert.is_nil((chunks()))
      end
      server:settle()
      assert.equal(2, server:count "on_end")
      c:close()
    end)

    it("stream to HTTP/1.0 until the end of the connection", function()
      start { on_body = function(req)
        C.mp_res_begin(req)
        write(req, "old")
        C.mp_res_end(req)
      end }
      local c = server:connect()
      c:send "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
      local r = c:response()
      assert.same({ 200, "old", "close" }, { r.status, r.body, r.headers.connection })
      assert.is_nil(r.headers["transfer-encoding"])
    end)

    it("that are given up end without their end", function()
      hold()
      local c = server:connect()
      c:send(HEAD)
      server:until_true(function() return server.held end)
      C.mp_res_begin(server.held)
      write(server.held, "half")
      local chunks = c:head():chunks()
      assert.equal("half", chunks())
      C.mp_res_abort(server.held)
      assert.has_error(chunks)
      assert.same({ "on_request", "on_body", "on_end" }, server.events)
      c:close()
    end)

    it("wait for a client that reads slowly, and go on", function()
      local total, sent, fulls = 3 * 1024 * 1024, 0, 0
      local function fill(req)
        while sent < total and not C.mp_res_full(req) do
          write(req, ("0123456789abcdef"):rep(1024))
          sent = sent + 16384
        end
        fulls = fulls + (C.mp_res_full(req) and 1 or 0)
        if sent == total then
          C.mp_res_end(req)
        end
      end
      start {
        limits = { high_water = 65536 },
        on_body = function(req)
          C.mp_res_begin(req)
          fill(req)
          assert(tonumber(C.mp_res_unsent(req)) <= 65536 + 16384)
        end,
        on_writable = fill,
      }
      local c = server:connect()
      c:send(HEAD)
      server:settle()
      assert.is_true(sent < total)
      assert.equal(total, #c:response().body)
      assert.is_true(fulls > 3)
      c:close()
    end)
  end)

  describe("server-sent events", function()
    it("are framed line by line", function()
      start { on_body = function(req)
        C.mp_sse_begin(req)
        C.mp_sse_event(req, nil, "one", 3)
        C.mp_sse_event(req, "named", "a\nb\r\nc\rd\n", 9)
        C.mp_sse_event(req, nil, "", 0)
        C.mp_sse_comment(req, "hm")
        assert(C.mp_sse_event(req, "bad\nname", "x", 1) == MP_EINVAL)
        assert(C.mp_sse_comment(req, "a\r") == MP_EINVAL)
        C.mp_sse_end(req)
      end }
      local c = server:connect()
      local r = c:stream {}
      assert.equal("text/event-stream", r.headers["content-type"])
      assert.equal("no-store", r.headers["cache-control"])
      assert.equal("no", r.headers["x-accel-buffering"])
      local events = {}
      for event in r:events(true) do
        events[#events + 1] = event
      end
      assert.same({ { data = "one" }, { event = "named", data = "a\nb\nc\nd\n" }, { data = "" }, { comment = "hm" } }, events)
      c:close()
    end)

    it("break silence with a comment", function()
      hold { limits = { sse_ping_ms = 20 } }
      local c = server:connect()
      c:send(HEAD)
      server:until_true(function() return server.held end)
      C.mp_sse_begin(server.held)
      local events = c:head():events(true)
      assert.same({ comment = "" }, events())
      assert.same({ comment = "" }, events())
      C.mp_sse_event(server.held, nil, "x", 1)
      C.mp_sse_end(server.held)
      assert.same({ data = "x" }, events())
      assert.is_nil((events()))
      c:close()
    end)
  end)

  describe("stopping", function()
    it("closes idle connections and lets answers end", function()
      hold()
      local url = server:listen()
      local idle, busy = http.connect(url, { pump = server.pump }), http.connect(url, { pump = server.pump })
      busy:send(HEAD)
      server:until_true(function() return server.held and server:gauges().connections == 2 end)
      local gone = 0
      local callback = ffi.cast("void (*)(void *)", function() gone = gone + 1 end)
      C.mp_server_stop(server.server, callback, nil)
      assert.equal("", (idle:rest()))
      assert.equal(0, gone)
      send(server.held, "last")
      local r = busy:response()
      assert.same({ "last", "close" }, { r.body, r.headers.connection })
      assert.equal("", (busy:rest()))
      server:until_true(function() return gone > 0 end)
      server:settle()
      assert.equal(1, gone)
      local late = http.connect(url, { pump = server.pump })
      server:settle()
      assert.equal("", (late:drain()))
      late:close()
      callback:free()
    end)

    it("at once aborts what is under way", function()
      hold()
      local c = server:connect()
      c:send(HEAD)
      server:until_true(function() return server.held end)
      C.mp_server_close(server.server)
      assert.equal(MP_ABORT_STOP, server.why)
      assert.equal("", (c:rest()))
      assert.same({ "on_request", "on_body", "on_abort", "on_end" }, server.events)
      c:close()
    end)

    it("from inside a handler is fine", function()
      start { on_request = function(_, s) C.mp_server_close(s.server) end }
      local c = server:connect()
      c:send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" .. HEAD)
      assert.equal("", (c:rest()))
      assert.equal(0, server:count "on_body")
      c:close()
    end)
  end)
end)
