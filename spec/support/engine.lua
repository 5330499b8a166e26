--- spec/support/engine.lua: an engine process by itself (`moonpool _engine`), and a gateway's end of the wire, for specs.
---
---   local e = engine.start { group = "fake", device = "delay_ms=5" }   -- in a fresh folder e.dir
---   local c = e:connect()
---   c:declare("m", { source = path })         -- the MODEL_STATE it is answered with, or nil, code, text
---   c:generate("m", "text", { max_tokens = 5 }) -- PREPARE, START: { text, finish, … } or { code, message }
---   e:stop()                                    -- SIGTERM; asserts exit 0
local assert = require "luassert"
local server = require "spec.support.server"
local C, ffi = require "spec.support.ffi"("core/wire/wire.h")

local M = {}
local Engine, Client = {}, {}
Engine.__index, Client.__index = Engine, Client
local live = {}

ffi.cdef [[
  int pipe2(int fds[2], int flags);
  int fcntl(int fd, int command, ...);
  int close(int fd);
]]

local function read_file(path)
  local f = io.open(path, "rb")
  local text = f and f:read "*a" or ""
  if f then
    f:close()
  end
  return text
end

function M.start(t)
  t = t or {}
  local self = setmetatable({ clients = {} }, Engine)
  self.dir = ffi.string(ffi.C.mkdtemp(ffi.cast("char *", (os.getenv "TMPDIR" or "/tmp") .. "/mpe.XXXXXX")))
  self.path, self.log_path = self.dir .. "/s", self.dir .. "/log"
  local argv = { server.binary, "_engine", "--listen", self.path, "--group", t.group or "cpu" }
  for _, option in ipairs { "device", "threads", "linger", "step_timeout" } do
    if t[option] then
      argv[#argv + 1], argv[#argv + 2] = "--" .. option:gsub("_", "-"), tostring(t[option])
    end
  end
  if t.parent then -- a pipe whose other end the engine watches
    local fds = ffi.new "int[2]"
    assert.equal(0, ffi.C.pipe2(fds, 0x80000)) -- O_CLOEXEC
    ffi.C.fcntl(fds[0], 2, ffi.cast("int", 0)) -- the end that it watches goes along
    argv[#argv + 1], argv[#argv + 2], self.parent = "--parent-fd", tostring(fds[0]), fds
  end
  local env = { ASAN_OPTIONS = "exitcode=77:detect_leaks=1:detect_stack_use_after_return=0", TSAN_OPTIONS = "exitcode=66" }
  for k, v in pairs(t.env or {}) do
    env[k] = v
  end
  self.pid = server.spawn(argv, self.log_path, env)
  live[#live + 1] = self
  server.until_true(function()
    return "the engine listens; its log: " .. self:log()
  end, function()
    return self:log():find("serving device group", 1, true) or not server.alive(self.pid)
  end)
  return self
end

function Engine:log()
  return read_file(self.log_path)
end

function Engine:connect()
  local fd, err = ffi.new "int[1]", ffi.new "struct mp_err"
  assert.equal(0, C.mp_wire_connect(self.path, fd, err), ffi.string(err.message))
  local c = setmetatable({ wire = C.mp_wire_new(fd[0], C.MP_PEER_GATEWAY), ids = 0, heard = {}, states = {} }, Client)
  self.clients[#self.clients + 1] = c
  return c
end

--- How it ended: { code } or { signal }, within the patience of server.until_true.
function Engine:wait()
  local status = ffi.new "int[1]"
  server.until_true(function()
    return "the engine ends; its log: " .. self:log()
  end, function()
    return ffi.C.waitpid(self.pid, status, 1) == self.pid
  end)
  self.over = true
  local s = status[0]
  return s % 128 == 0 and { code = math.floor(s / 256) % 256 } or { signal = s % 128 }
end

function Engine:stop()
  ffi.C.kill(self.pid, 15)
  assert.same({ code = 0 }, self:wait())
  assert.is_nil(self:log():match "[^\n]* error [^\n]*")
  assert.is_nil(self:log():match "Sanitizer[^\n]*")
end

--- After each case: ends what it left, with the same assertions.
function M.cleanup()
  local list = live
  live = {}
  for _, e in ipairs(list) do
    for _, c in ipairs(e.clients) do
      c:close()
    end
    if e.parent then
      ffi.C.close(e.parent[0])
      if e.parent[1] >= 0 then
        ffi.C.close(e.parent[1])
      end
    end
    if not e.over then
      e:stop()
    end
    os.remove(e.path)
    os.remove(e.log_path)
    for _, name in ipairs(e.files or {}) do
      os.remove(name)
    end
    os.remove(e.dir)
  end
end

--- A path in the engine's folder, removed at the end.
function Engine:file(name)
  self.files = self.files or {}
  table.insert(self.files, self.dir .. "/" .. name)
  return self.dir .. "/" .. name
end

function Client:close()
  C.mp_wire_free(self.wire)
  self.wire = nil
end

local function str(span)
  return span.n > 0 and ffi.string(span.p, span.n) or ""
end

local function plain(m) -- a message as a Lua table
  local name = ffi.string(C.mp_msg_name(m.type))
  local t = { kind = name, id = tonumber(m.id) }
  local fields = {
    pong = { "nonce", "step_ns" }, prepared = { "n_tokens", "left" }, models_end = { "count" },
    tokens = { "completion_tokens", "device_ns", "text" }, error = { "code", "message", "retry_ns", "prompt_tokens" },
    done = { "finish", "stop", "prompt_tokens", "completion_tokens", "device_ns", "prefill_ns", "queue_ns", "load_ns", "first_ns",
      "total_ns", "text" },
    model_state = { "name", "state", "identity", "done", "total", "loads", "load_ns", "context", "n_vocab", "running", "waiting",
      "memory", "device", "arch", "error", "reason", "retry_ns", "need", "reserved", "replacing", "cause" },
    device_state = { "device", "memory", "reserved", "used" }, bye = { "reason" },
  }
  for _, f in ipairs(fields[name] or {}) do
    local v = m.u[name][f]
    if type(v) == "cdata" and ffi.istype("struct mp_span", v) then
      v = str(v)
    elseif f ~= "identity" then
      v = tonumber(v)
    end
    t[f] = v
  end
  if t.state then
    t.state = ffi.string(C.mp_model_state_name(t.state))
  end
  if t.finish then
    t.finish = ffi.string(C.mp_msg_finish_name(t.finish))
  end
  return t
end

function Client:send(kind, id, fields)
  local m, err, keep = ffi.new "struct mp_msg", ffi.new "struct mp_err", {}
  m.type, m.id = C["MP_MSG_" .. kind:upper()], id
  local body = kind ~= "cancel" and kind ~= "models" and m.u[kind] -- those two have no fields
  if kind == "start" then
    C.mp_msg_start_init(body)
    body.greedy = 1
  end
  for k, v in pairs(fields or {}) do
    if k == "stops" then
      body.n_stops = #v
      for i, stop in ipairs(v) do
        keep[#keep + 1] = stop
        body.stops[i - 1].p, body.stops[i - 1].n = stop, #stop
      end
    elseif type(v) == "string" then
      keep[#keep + 1] = v
      body[k].p, body[k].n = v, #v
    else
      body[k] = v
    end
  end
  assert.equal(0, C.mp_wire_send(self.wire, m, err), ffi.string(err.message))
  C.mp_wire_writable(self.wire, err)
end

--- Takes in what has come; states by model name go to self.states. Waits a little when nothing is there. nil, text: the
--- connection is over.
function Client:read()
  local err, m, fds = ffi.new "struct mp_err", ffi.new "struct mp_msg", ffi.new "struct spec_pollfd[1]"
  fds[0].fd, fds[0].events = C.mp_wire_fd(self.wire), 1
  ffi.C.poll(fds, 1, 20)
  C.mp_wire_writable(self.wire, nil)
  local rc = C.mp_wire_readable(self.wire, err)
  while C.mp_wire_next(self.wire, m, nil) == 1 do
    local t = plain(m)
    if t.kind == "model_state" then
      self.states[t.name] = t
      self.history = self.history or {}
      table.insert(self.history, t)
    end
    if t.id > 0 or t.kind ~= "model_state" then
      table.insert(self.heard, t)
    end
  end
  if rc < 0 then
    return nil, ffi.string(err.message)
  end
  return true
end

--- The next message with that id (taken out of what was heard).
function Client:hear(id)
  return server.until_true("a message with id " .. id, function()
    for i, t in ipairs(self.heard) do
      if t.id == id then
        return table.remove(self.heard, i)
      end
    end
    self:read()
  end)
end

function Client:until_state(name, state)
  server.until_true(function()
    return name .. " is " .. state .. ", not " .. tostring(self.states[name] and self.states[name].state)
  end, function()
    return self.states[name] and self.states[name].state == state or not self:read()
  end)
  return self.states[name]
end

function Client:next_id()
  self.ids = self.ids + 1
  return self.ids
end

local function json(v)
  if type(v) == "table" and #v > 0 then
    local list = {}
    for i, x in ipairs(v) do
      list[i] = json(x)
    end
    return "[" .. table.concat(list, ",") .. "]"
  elseif type(v) == "table" then
    local list = {}
    for k, x in pairs(v) do
      list[#list + 1] = ("%q:%s"):format(k, json(x))
    end
    return "{" .. table.concat(list, ",") .. "}"
  end
  return type(v) == "string" and ("%q"):format(v) or tostring(v)
end

--- spec: a table, or JSON text.
function Client:declare(name, spec)
  local id = self:next_id()
  self:send("model_declare", id, { name = name, spec = type(spec) == "table" and json(spec) or spec })
  local t = self:hear(id)
  if t.kind == "error" then
    return nil, t.code, t.message
  end
  return t
end

function Client:ask(kind, name)
  local id = self:next_id()
  self:send(kind, id, { name = name }) -- no name: no fields
  return self:hear(id)
end

--- kind 0 chat, 1 text, 2 ids. Returns the id, and PREPARED's or ERROR's table when wait is not false.
function Client:prepare(name, payload, kind, fields)
  local id = self:next_id()
  local f = { model = name, kind = kind or 1, payload = payload }
  for k, v in pairs(fields or {}) do
    f[k] = v
  end
  self:send("prepare", id, f)
  return id
end

--- The rest of a started request, gathered.
function Client:result(id)
  local r = { text = "", parts = 0 }
  while true do
    local t = self:hear(id)
    r.text = r.text .. (t.text or "")
    r.parts = r.parts + 1
    if t.kind == "prepared" then
      r.n_tokens, r.left = t.n_tokens, t.left
    elseif t.kind ~= "tokens" then
      for k, v in pairs(t) do
        if k ~= "text" then
          r[k] = v
        end
      end
      return r
    end
  end
end

function Client:generate(name, payload, start, kind)
  local id = self:prepare(name, payload, kind)
  self:send("start", id, start)
  return self:result(id)
end

return M
