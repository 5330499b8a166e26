--- spec/support/load.lua: an open-loop load: requests go out when their time has come, however the server does; one thread, plain sockets.
---
---   local load = require "spec.support.load"
---   local all = load.run(s.url, { seconds = 6, watch = { pid }, {
---     { rate = 200, request = function(i) return "GET", "/fine" end },             -- or method, path, body
---     { rate = 10, request = function(i) … return "POST", "/x", nil, "its name" end },
---   } })
---   all[n] → { stream = 1, name, latency (from sending to the last byte), stall, late (sent so much after its time), status, body }
---
--- A busy machine is not a slow server: `stall` is how long, while a request was under way, the watched threads ({ pid, "comm" pattern }) stood in
--- the kernel's queue for a processor, and this process came back late from its own sleeps.
local ffi = require "ffi"
local http = require "spec.support.http"
jit.off(true, true) -- structs that C fills: see spec/support/ffi.lua

ffi.cdef [[
  ssize_t pread(int fd, void *p, size_t n, long at);
]]
local POLLIN, MSG_DONTWAIT, MSG_NOSIGNAL, EAGAIN = 1, 0x40, 0x4000, 11

local M = {}

-- ---- how long threads waited for a processor ----

local Waits = {}
Waits.__index = Waits

local function threads(pid, pattern)
  local out, pipe = {}, assert(io.popen("ls /proc/" .. pid .. "/task"))
  for tid in pipe:lines() do
    local f = io.open(("/proc/%d/task/%s/comm"):format(pid, tid))
    local comm = f and f:read "*l" or ""
    if f then
      f:close()
    end
    if comm:match(pattern) then
      out[#out + 1] = ("/proc/%d/task/%s/schedstat"):format(pid, tid)
    end
  end
  pipe:close()
  return out
end

--- watch: { pid, pattern of the threads' names }; nil: nothing but this process.
function M.waits(watch)
  local self = setmetatable({ fds = {}, own = 0, buffer = ffi.new "char[128]" }, Waits)
  for _, path in ipairs(watch and threads(watch[1], watch[2] or "") or {}) do
    local fd = ffi.C.open(path, 0x80000) -- O_RDONLY | O_CLOEXEC
    if fd >= 0 then
      self.fds[#self.fds + 1] = fd
    end
  end
  return self
end

--- Seconds so far, of all of them together.
function Waits:total()
  local sum = 0
  for _, fd in ipairs(self.fds) do
    local n = tonumber(ffi.C.pread(fd, self.buffer, 127, 0))
    sum = sum + (n > 0 and tonumber(ffi.string(self.buffer, n):match "^%d+ (%d+)") or 0)
  end
  return sum / 1e9 + self.own
end

function Waits:close()
  for _, fd in ipairs(self.fds) do
    ffi.C.close(fd)
  end
end

-- ---- the load ----

local function parse(buffer)
  local head, behind = buffer:match "^(.-)\r\n\r\n()"
  if not head then
    return nil
  end
  head = head:lower()
  local n = tonumber(head:match "content%-length: (%d+)")
  assert(n, "an answer without a length: " .. head)
  if #buffer < behind - 1 + n then
    return nil
  end
  return tonumber(head:match "^http/1%.1 (%d+)"), buffer:sub(behind, behind - 1 + n), head:find "connection: close" ~= nil
end

---@param url string
---@param o table seconds, watch, patience (seconds to wait for answers after the last request; 5), then the streams
function M.run(url, o)
  local waits, all, idle, busy, connections = M.waits(o.watch), {}, {}, {}, 0
  local scratch, host = ffi.new "char[65536]", url:match "//(.*)$"
  local began = http.now()
  local ends = began + o.seconds
  local last = ends + (o.patience or 5)
  for i, stream in ipairs(o) do
    stream.due, stream.n = began + (i - 1) * 0.5 / stream.rate, 0
  end

  local function connection()
    local c = table.remove(idle)
    if not c then
      c = http.connect(url, { timeout = 5 })
      connections = connections + 1
      assert(connections < 500, "the server does not keep up: 500 connections")
    end
    return c
  end

  local function send(index, stream, now)
    local method, path, body, name = stream.request(stream.n)
    local c = connection()
    local text = ("%s %s HTTP/1.1\r\nhost: %s\r\n%s\r\n%s"):format(method, path, host,
      body and ("content-type: application/json\r\ncontent-length: %d\r\n"):format(#body) or "", body or "")
    c.answer = { stream = index, name = name or path, late = now - stream.due, sent = http.now(), waited = waits:total() }
    c.buffer = ""
    all[#all + 1] = c.answer
    busy[#busy + 1] = c
    local n = tonumber(ffi.C.send(c.fd, text, #text, MSG_DONTWAIT + MSG_NOSIGNAL))
    assert(n == #text, "a request that does not fit into a socket")
    stream.n = stream.n + 1
    stream.due = stream.due + 1 / stream.rate
  end

  local function receive(c)
    local n = tonumber(ffi.C.recv(c.fd, scratch, 65536, MSG_DONTWAIT))
    if n < 0 and ffi.errno() == EAGAIN then
      return false
    end
    assert(n > 0, "the server closed a connection before the answer to " .. c.answer.name)
    c.buffer = c.buffer .. ffi.string(scratch, n)
    local status, body, close = parse(c.buffer)
    if not status then
      return false
    end
    local a = c.answer
    a.latency, a.status, a.body = http.now() - a.sent, status, body
    a.stall = waits:total() - a.waited
    if close then
      c:close()
      connections = connections - 1
    else
      idle[#idle + 1] = c
    end
    return true
  end

  local polls, room = nil, 0
  while true do
    local now, next_due = http.now(), last
    for i, stream in ipairs(o) do
      while stream.due <= now and stream.due < ends do
        send(i, stream, now)
      end
      if stream.due < ends then
        next_due = math.min(next_due, stream.due)
      end
    end
    if now >= ends and #busy == 0 or now >= last then
      break
    end
    if #busy > room then
      room = #busy + 64
      polls = ffi.new("struct spec_pollfd[?]", room)
    end
    for i, c in ipairs(busy) do
      polls[i - 1].fd, polls[i - 1].events = c.fd, POLLIN
    end
    now = http.now()
    local ms = math.max(0, math.min(5, math.floor((next_due - now) * 1000)))
    ffi.C.poll(polls, #busy, ms)
    local over = http.now() - now - ms / 1000
    if over > 0.001 then -- a processor was not to be had
      waits.own = waits.own + over
    end
    for i = #busy, 1, -1 do
      if receive(busy[i]) then
        table.remove(busy, i)
      end
    end
  end
  waits:close()
  for _, list in ipairs { idle, busy } do
    for _, c in ipairs(list) do
      c:close()
    end
  end
  return all
end

--- The largest of f(answer) over those that f gives a number for, and its answer.
function M.worst(all, f)
  local most, which = -math.huge, nil
  for _, a in ipairs(all) do
    local v = f(a)
    if v and v > most then
      most, which = v, a
    end
  end
  return most, which
end

return M
