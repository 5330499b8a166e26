--- spec/support/http.lua: an HTTP/1.1 client over plain sockets for specs, down to single bytes.
---
---   local http = require "spec.support.http"
---   local r = http.request("http://127.0.0.1:7171", { method = "POST", path = "/haiku", json = { topic = "sea" } })
---   r.status, r.headers["content-type"], r.body, r:json()
---
---   local c = http.connect("http://127.0.0.1:7171", { timeout = 10 })     -- or { fd = … }
---   local s = c:stream { path = "/v1/chat/completions", json = { … } }    -- head is read: s.status, s.headers
---   for event in s:events() do event.data, event.event end                -- or s:chunks(), s:rest()
---   local m = http.many(url, 30, { json = … }); m:collect(); m:statuses()    -- 30 at once
---
---   c:send "GET / HT"; c:receive(); c:response(); c:half_close(); c:reset(); c:close()
---
--- Whatever waits raises after `timeout` seconds (10). `pump`: a function called while waiting (an in-process server's loop).
local ffi = require "ffi"
local bit = require "bit"

ffi.cdef [[
  struct spec_sockaddr_in { uint16_t family; uint16_t port; uint32_t addr; char pad[8]; };
  struct spec_sockaddr_un { uint16_t family; char path[108]; };
  struct spec_pollfd { int fd; short events, revents; };
  struct spec_timeval { long sec, usec; };
  struct spec_linger { int onoff, linger; };
  int socket(int domain, int type, int protocol);
  int connect(int fd, const void *addr, unsigned len);
  ssize_t send(int fd, const void *p, size_t n, int flags);
  ssize_t recv(int fd, void *p, size_t n, int flags);
  int poll(struct spec_pollfd *fds, unsigned long n, int ms);
  int shutdown(int fd, int how);
  int setsockopt(int fd, int level, int name, const void *value, unsigned len);
  int close(int fd);
  int gettimeofday(struct spec_timeval *tv, void *tz);
  char *strerror(int error);
]]
local EAGAIN, EINPROGRESS = 11, 115
local MSG_DONTWAIT, MSG_NOSIGNAL = 0x40, 0x4000
local POLLIN, POLLOUT = 1, 4
local SOCK_STREAM_FLAGS = 1 + 2048 + 524288 -- SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC

local http = {}

---@class spec.http.Connection
local Connection = {}
Connection.__index = Connection

---@class spec.http.Response
---@field status integer
---@field headers table<string, string>  names in lower case; repeated ones joined with ", "
---@field body string?
local Response = {}
Response.__index = Response

--- Seconds, for timeouts and for measuring.
function http.now()
  local tv = ffi.new "struct spec_timeval"
  ffi.C.gettimeofday(tv, nil)
  return tonumber(tv.sec) + tonumber(tv.usec) / 1e6
end

local function parse_url(url)
  local host, port = url:match "^http://([^:/]+):(%d+)"
  assert(host, "not http://HOST:PORT: " .. tostring(url))
  return host == "localhost" and "127.0.0.1" or host, tonumber(port)
end

---@param target string|table  "http://127.0.0.1:PORT", "unix:PATH", or { fd = connected non-blocking socket }
---@param opts table?  timeout (seconds), pump
---@return spec.http.Connection
function http.connect(target, opts)
  opts = opts or {}
  local self = setmetatable({ timeout = opts.timeout or 10, pump = opts.pump, buffer = "", host = "spec" }, Connection)
  if type(target) == "table" then
    self.fd = target.fd
    return self
  end
  local path = target:match "^unix:(.*)$"
  if path then
    local un = ffi.new "struct spec_sockaddr_un"
    un.family, un.path = 1, path
    self.fd = ffi.C.socket(1, SOCK_STREAM_FLAGS, 0)
    local deadline = http.now() + self.timeout
    while ffi.C.connect(self.fd, un, ffi.sizeof(un)) ~= 0 do -- one that does not block is refused while many wait to be accepted
      assert(ffi.errno() == EAGAIN and http.now() < deadline, "cannot connect to " .. path)
      ffi.C.poll(nil, 0, 5)
    end
    return self
  end
  local host, port = parse_url(target)
  self.host = host .. ":" .. port
  local a, b, c, d = host:match "^(%d+)%.(%d+)%.(%d+)%.(%d+)$"
  local addr = ffi.new "struct spec_sockaddr_in"
  addr.family = 2
  addr.port = bit.bor(bit.lshift(bit.band(port, 255), 8), bit.rshift(port, 8))
  addr.addr = a + b * 2 ^ 8 + c * 2 ^ 16 + d * 2 ^ 24
  self.fd = ffi.C.socket(2, SOCK_STREAM_FLAGS, 0)
  assert(self.fd >= 0, "no socket")
  if ffi.C.connect(self.fd, addr, ffi.sizeof(addr)) ~= 0 then
    local errno = ffi.errno()
    if errno == EINPROGRESS then
      self:wait(POLLOUT, "connect")
    else
      ffi.C.close(self.fd)
      self.fd = nil
      error("connect " .. target .. ": " .. ffi.string(ffi.C.strerror(errno)), 2)
    end
  end
  local on = ffi.new("int[1]", 1)
  ffi.C.setsockopt(self.fd, 6, 1, on, 4) -- TCP_NODELAY: one send is one segment
  return self
end

--- Until the socket is readable or writable.
function Connection:wait(events, what)
  local p = ffi.new "struct spec_pollfd"
  local deadline = http.now() + self.timeout
  repeat
    if self.pump then
      self.pump()
    end
    p.fd, p.events = self.fd, events
    if ffi.C.poll(p, 1, self.pump and 0 or 50) > 0 then
      return
    end
  until http.now() > deadline
  error(("timeout: %s, %d bytes received so far: %q"):format(what, #self.buffer, self.buffer:sub(1, 200)), 0)
end

--- Sends all of it; raises when the peer has reset the connection, unless told to return false then.
function Connection:send(data, quiet)
  local at = 0
  while at < #data do
    local n = tonumber(ffi.C.send(self.fd, ffi.cast("const char *", data) + at, #data - at, MSG_DONTWAIT + MSG_NOSIGNAL))
    if n >= 0 then
      at = at + n
    elseif ffi.errno() == EAGAIN then
      self:wait(POLLOUT, "send")
    elseif quiet then
      return false
    else
      error("send: " .. ffi.string(ffi.C.strerror(ffi.errno())), 2)
    end
  end
  return true
end

--- What the kernel takes now, without waiting: the number of bytes.
function Connection:send_some(data)
  local n = tonumber(ffi.C.send(self.fd, data, #data, MSG_DONTWAIT + MSG_NOSIGNAL))
  return n > 0 and n or 0
end

local scratch = ffi.new "char[65536]"

--- Next bytes; "" at the end of the connection; nil and the error's text after a reset.
function Connection:receive(max)
  while true do
    local n = tonumber(ffi.C.recv(self.fd, scratch, math.min(max or 65536, 65536), MSG_DONTWAIT))
    if n >= 0 then
      return ffi.string(scratch, n)
    elseif ffi.errno() ~= EAGAIN then
      return nil, ffi.string(ffi.C.strerror(ffi.errno()))
    end
    self:wait(POLLIN, "receive")
  end
end

--- What has come, without waiting, and whether the peer has ended the connection.
function Connection:drain()
  while true do
    local n = tonumber(ffi.C.recv(self.fd, scratch, 65536, MSG_DONTWAIT))
    if n <= 0 then
      local data = self.buffer
      self.buffer = ""
      return data, n == 0 or ffi.errno() ~= EAGAIN
    end
    self.buffer = self.buffer .. ffi.string(scratch, n)
  end
end

--- Adds to the buffer; false at the end of the connection.
function Connection:fill()
  local data, err = self:receive()
  if data == nil or data == "" then
    self.ended, self.broken = true, err
    return false
  end
  self.buffer = self.buffer .. data
  return true
end

function Connection:take(n)
  while #self.buffer < n do
    if not self:fill() then
      error(("the connection ended %d bytes early%s"):format(n - #self.buffer, self.broken and ": " .. self.broken or ""), 0)
    end
  end
  local data = self.buffer:sub(1, n)
  self.buffer = self.buffer:sub(n + 1)
  return data
end

--- A line without its CRLF.
function Connection:line()
  while true do
    local at = self.buffer:find("\r\n", 1, true)
    if at then
      local line = self.buffer:sub(1, at - 1)
      self.buffer = self.buffer:sub(at + 2)
      return line
    end
    if not self:fill() then
      error(("the connection ended in mid-line%s: %q"):format(self.broken and " (" .. self.broken .. ")" or "", self.buffer), 0)
    end
  end
end

--- Waits for the peer to close; returns what came until then, and the error's text after a reset.
function Connection:rest()
  while not self.ended and self:fill() do end
  local data = self.buffer
  self.buffer = ""
  return data, self.broken
end

--- The head of a response. Interim (1xx) ones are collected in `interim`.
---@return spec.http.Response
function Connection:head(method)
  local r = setmetatable({ headers = {}, list = {}, interim = {}, connection = self, method = method }, Response)
  repeat
    local line = self:line()
    local version, status, reason = line:match "^HTTP/(1%.[01]) (%d%d%d) (.*)$"
    assert(version, "not a status line: " .. line)
    r.status, r.reason = tonumber(status), reason
    for header in self.line, self do
      if header == "" then
        break
      end
      local name, value = header:match "^([^:%s]+):[ \t]*(.-)[ \t]*$"
      assert(name, "not a header: " .. header)
      name = name:lower()
      table.insert(r.list, { name, value })
      r.headers[name] = r.headers[name] and r.headers[name] .. ", " .. value or value
    end
    if r.status < 200 then
      table.insert(r.interim, r.status)
    end
  until r.status >= 200
  local h = r.headers
  if method == "HEAD" or r.status == 204 or r.status == 304 then
    r.mode = "none"
  elseif h["transfer-encoding"] == "chunked" then
    assert(not h["content-length"], "both framings")
    r.mode = "chunked"
  elseif h["content-length"] then
    r.mode, r.left = "length", tonumber(h["content-length"])
  else
    r.mode = "close"
  end
  return r
end

--- Iterates over the body's pieces as they come (chunks of a chunked one).
function Response:chunks()
  local c = self.connection
  return function()
    if self.finished then
      return nil
    elseif self.mode == "chunked" then
      local size = tonumber(c:line():match "^%x+$", 16)
      if size > 0 then
        local data = c:take(size)
        assert(c:line() == "", "a chunk longer than its size")
        return data
      end
      while c:line() ~= "" do end
    elseif self.mode == "length" and self.left > 0 then
      local data = c:take(math.min(self.left, 65536))
      self.left = self.left - #data
      return data
    elseif self.mode == "close" then
      local data = c:rest()
      self.finished = true
      return data ~= "" and data or nil
    end
    self.finished = true
  end
end

--- The rest of the body.
function Response:rest()
  local parts = {}
  for data in self:chunks() do
    parts[#parts + 1] = data
  end
  self.body = (self.body or "") .. table.concat(parts)
  return self.body
end

--- Iterates over server-sent events: { event = name?, data = text, id = ?, comment = ? }; comments only when asked for.
function Response:events(with_comments)
  local pending, next_chunk = "", self:chunks()
  return function()
    while true do
      local block, behind = pending:match "^(.-)\n\n()"
      if block then
        pending = pending:sub(behind)
        local event, data = {}, {}
        for line in (block .. "\n"):gmatch "(.-)\n" do
          local name, value = line:match "^([^:]*):? ?(.*)$"
          if name == "data" then
            data[#data + 1] = value
          elseif name == "" then
            event.comment = value
          else
            event[name] = value
          end
        end
        event.data = #data > 0 and table.concat(data, "\n") or nil
        if event.data or with_comments then
          return event
        end
      else
        local data = next_chunk()
        if not data then
          assert(pending == "", "an event without its end: " .. pending)
          return nil
        end
        pending = pending .. data
      end
    end
  end
end

function Response:json()
  return require("spec.support.json").decode(self.body)
end

--- A whole response, body included.
function Connection:response(method)
  local r = self:head(method)
  r:rest()
  return r
end

local function encode(self, o)
  local body = o.body
  local headers = {}
  for name, value in pairs(o.headers or {}) do
    headers[#headers + 1] = ("%s: %s\r\n"):format(name, value)
  end
  if o.json ~= nil then
    body = require("spec.support.json").encode(o.json)
    headers[#headers + 1] = "content-type: application/json\r\n"
  end
  if body then
    headers[#headers + 1] = ("content-length: %d\r\n"):format(#body)
  end
  return ("%s %s HTTP/1.1\r\nhost: %s\r\n%s\r\n%s"):format(o.method or (body and "POST" or "GET"), o.path or "/", self.host,
    table.concat(headers), body or "")
end

--- Sends a request { method, path, headers, body | json }; returns the response with its whole body.
function Connection:request(o)
  self:send(encode(self, o))
  return self:response(o.method)
end

--- Sends it and returns as soon as the head of the response is there.
function Connection:stream(o)
  self:send(encode(self, o))
  return self:head(o.method)
end

--- No more will be sent (FIN); receiving goes on.
function Connection:half_close()
  ffi.C.shutdown(self.fd, 1)
end

--- Ends at once with RST.
function Connection:reset()
  ffi.C.setsockopt(self.fd, 1, 13, ffi.new("struct spec_linger", 1, 0), 8)
  self:close()
end

function Connection:close()
  if self.fd then
    ffi.C.close(self.fd)
    self.fd = nil
  end
end

-- ---- many at once ----

local Many = {}
Many.__index = Many

--- n connections, then on each a request, sent one right behind the other: `o`, or what the function o(i) gives. Answers are gathered by
--- Many:collect; `answers` holds those that came, in the order in which they did: responses with `index` and `seconds` since sending.
function http.many(target, n, o)
  local self = setmetatable({ open = {}, answers = {}, timeout = type(o) == "table" and o.timeout or 10 }, Many)
  for i = 1, n do
    self.open[i] = http.connect(target)
  end
  for i = 1, n do
    local c = self.open[i]
    c.sent = http.now()
    c:send(encode(c, type(o) == "function" and o(i) or o))
  end
  return self
end

local function is_whole(buffer)
  local head, behind = buffer:match "^(.-\r\n)\r\n()"
  if not head then
    return false
  end
  local n = tonumber(head:lower():match "\r\ncontent%-length: (%d+)\r\n")
  if n then
    return #buffer >= behind - 1 + n
  end
  return buffer:sub(-5) == "0\r\n\r\n" -- chunked
end

--- Until `n` answers are there (all of them unless given), at most `timeout` seconds; then it raises, or returns what came if `quiet`.
function Many:collect(n, timeout, quiet)
  local deadline = http.now() + (timeout or self.timeout)
  local index, fds = {}, ffi.new("struct spec_pollfd[?]", 1024)
  repeat
    local count = 0
    for i, c in pairs(self.open) do
      fds[count].fd, fds[count].events = c.fd, POLLIN
      index[count], count = i, count + 1
    end
    if #self.answers >= (n or math.huge) or count == 0 then
      return self.answers
    end
    ffi.C.poll(fds, count, 20)
    for k = 0, count - 1 do
      local i = index[k]
      local c = self.open[i]
      if fds[k].revents ~= 0 then
        local data, ended = c:drain()
        c.buffer = data
        if is_whole(data) then
          local r = c:response()
          r.index, r.seconds = i, http.now() - c.sent
          table.insert(self.answers, r)
          c:close()
          self.open[i] = nil
        elseif ended then
          error(("connection %d ended early: %q"):format(i, data), 2)
        end
      end
    end
  until http.now() > deadline
  if quiet then
    return self.answers
  end
  error(("timeout: %d of %s answers came"):format(#self.answers, n or "all"), 2)
end

--- How many answers have each status: { [200] = 80, [429] = 120 }.
function Many:statuses()
  local out = {}
  for _, r in ipairs(self.answers) do
    out[r.status] = (out[r.status] or 0) + 1
  end
  return out
end

--- Those that have no answer yet: the client leaves.
function Many:close()
  for i, c in pairs(self.open) do
    c:close()
    self.open[i] = nil
  end
end

--- One request on a connection of its own. Adds `seconds`.
---@return spec.http.Response
function http.request(target, o)
  local c = http.connect(target, { timeout = o.timeout, pump = o.pump })
  local started = http.now()
  local ok, r = pcall(c.request, c, o)
  c:close()
  if not ok then
    error(r, 2)
  end
  r.seconds = http.now() - started
  return r
end

return http
