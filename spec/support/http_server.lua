--- spec/support/http_server.lua: core/net's server inside the spec's own process, with handlers in Lua. One thread: the
--- client's `pump` turns the server's loop.
---
---   local server = require("spec.support.http_server").start { limits = {…}, on_body = function(req, server) … end }
---   local c = server:connect(); … ; server:stop()       -- stop asserts that nothing is left over
local C, ffi = require "spec.support.ffi"(
  "core/net/server.h", "core/net/response.h", "core/net/sse.h", "core/net/evloop.h", "core/base/arena.h")
local http = require "spec.support.http"

ffi.cdef [[
  int socketpair(int domain, int type, int protocol, int fds[2]);
  int bind(int fd, const void *addr, unsigned len);
  int listen(int fd, int backlog);
  int getsockname(int fd, void *addr, unsigned *len);
]]
jit.off() -- C calls back into Lua from inside FFI calls

local Server = {}
Server.__index = Server
Server.C = C

local function body_of(req)
  return ffi.string(req.body, req.body_len)
end

--- The default handler: answers with what it understood, one line each.
local function echo(req)
  local lines = { ffi.string(req.method), ffi.string(req.path, req.path_len), ffi.string(req.query), ffi.string(req.host) }
  for i = 0, tonumber(req.header_count) - 1 do
    local h = req.headers[i]
    lines[#lines + 1] = ffi.string(h.name, h.name_len) .. ": " .. ffi.string(h.value, h.value_len)
  end
  lines[#lines + 1] = ""
  lines[#lines + 1] = body_of(req)
  local text = table.concat(lines, "\n")
  C.mp_res_send(req, text, #text)
end

--- opts: limits, on_request, on_body, on_writable, on_abort(req, why), on_end: functions of (req, server).
function Server.start(opts)
  opts = opts or {}
  local self = setmetatable({ events = {}, opts = opts, fds = {} }, Server)
  local limits = ffi.new "struct mp_net_limits"
  C.mp_net_limits_init(limits)
  for name, value in pairs(opts.limits or {}) do
    limits[name] = value
  end
  local handler = ffi.new "struct mp_handler"
  self.callbacks = {}
  local function callback(name, fallback)
    local fn = opts[name] or fallback
    local cb = ffi.cast(name == "on_abort" and "void (*)(void *, struct mp_req *, enum mp_abort)" or
      "void (*)(void *, struct mp_req *)", function(_, req, why)
      table.insert(self.events, name)
      local ok, err = pcall(fn, req, self, why and tonumber(why))
      if not ok then
        self.error = self.error or (name .. ": " .. tostring(err))
      end
    end)
    self.callbacks[#self.callbacks + 1] = cb
    handler[name] = cb
  end
  local function nothing() end
  callback("on_request", nothing)
  callback("on_body", echo)
  callback("on_writable", nothing)
  callback("on_abort", nothing)
  callback("on_end", nothing)
  self.handler = handler
  self.loop = C.mp_evloop_new()
  self.server = C.mp_server_new(self.loop, limits, handler)
  self.pump = function()
    C.mp_evloop_turn(self.loop, false)
    if self.error then
      local message = self.error
      self.error = nil
      error(message, 0)
    end
  end
  return self
end

--- A connection over a socketpair.
function Server:connect(opts)
  local fds = ffi.new "int[2]"
  assert(ffi.C.socketpair(1, 1 + 2048 + 524288, 0, fds) == 0)
  local err = ffi.new "struct mp_err"
  assert(C.mp_server_adopt(self.server, fds[1], err) == 0, ffi.string(err.message))
  return http.connect({ fd = fds[0] }, { pump = self.pump, timeout = opts and opts.timeout or 5 })
end

--- Listens on a free port of the loopback; returns its address. Connect with `http.connect(url, { pump = server.pump })`.
function Server:listen(backlog)
  local addr = ffi.new("struct spec_sockaddr_in", 2, 0, 0x0100007f)
  local fd = ffi.C.socket(2, 1 + 2048 + 524288, 0)
  assert(ffi.C.bind(fd, addr, ffi.sizeof(addr)) == 0 and ffi.C.listen(fd, backlog or 64) == 0)
  local size = ffi.new("unsigned[1]", ffi.sizeof(addr))
  ffi.C.getsockname(fd, addr, size)
  local err = ffi.new "struct mp_err"
  assert(C.mp_server_listen(self.server, fd, err) == 0, ffi.string(err.message))
  table.insert(self.fds, fd)
  local port = tonumber(addr.port)
  return ("http://127.0.0.1:%d"):format(port % 256 * 256 + math.floor(port / 256)), fd
end

--- Turns the loop until cond() is true; raises after `timeout` seconds.
function Server:until_true(cond, timeout)
  local deadline = http.now() + (timeout or 5)
  while not cond() do
    self.pump()
    assert(http.now() < deadline, "timeout; events: " .. table.concat(self.events, " "))
  end
end

--- Turns the loop until nothing moves any more.
function Server:settle()
  local quiet, last = 0, nil
  repeat
    self.pump()
    local g = self:gauges()
    local now = g.bytes_in + g.bytes_out * 2 ^ 20 + g.connections * 2 ^ 40 + g.served * 2 ^ 44
    quiet = now == last and quiet + 1 or 0
    last = now
  until quiet == 3
end

function Server:gauges()
  local g = ffi.new "struct mp_server_gauges"
  C.mp_server_gauges(self.server, g)
  return setmetatable({}, { __index = function(_, name) return tonumber(g[name]) end })
end

function Server:count(event)
  local n = 0
  for _, e in ipairs(self.events) do
    n = n + (e == event and 1 or 0)
  end
  return n
end

--- Closes and asserts that nothing is left: as many ends as requests, gauges at zero, every handle closed.
function Server:stop()
  C.mp_server_close(self.server)
  self.pump()
  local g = self:gauges()
  local begun, ended = self:count "on_request", self:count "on_end"
  local connections, requests = g.connections, g.requests
  C.mp_server_free(self.server)
  C.mp_evloop_free(self.loop) -- aborts when a handle is left open
  for _, fd in ipairs(self.fds) do
    ffi.C.close(fd)
  end
  for _, cb in ipairs(self.callbacks) do
    cb:free()
  end
  assert(begun == ended, ("%d requests, %d ends"):format(begun, ended))
  assert(connections == 0 and requests == 0, "gauges are not back at zero")
  assert(not self.error, self.error)
end

return Server
