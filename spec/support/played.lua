--- spec/support/played.lua: engines that a spec plays, at the other end of real sockets, for specs of core/gateway's side of them.
---
---   local e = played.engine()          -- listens at e.path
---   e:turn()                           -- accepts and reads; what came lies in e.said: { name, id, wire, model?, payload?, spec?, memory? }
---   e:send(wire, "MODEL_STATE", id, function(m) … end)
---   e:state(wire, id, "COLD", { name = "m", need = 5, … })
---   e:bye "idle"                       -- on every connection; they are cut
---   e:die(), e:gone(), e:listen(), e:free()
---
--- `answer`: a table of functions by message name, called for each that comes: answer.MODEL_DECLARE(e, said).
local C, ffi = require "spec.support.ffi"("core/wire/wire.h")
ffi.cdef "char *mkdtemp(char *template); int close(int fd);"

local M = {}
local Engine = {}
Engine.__index = Engine

local TYPES = {}
for _, name in ipairs { "MODEL_DECLARE", "MODEL_LOAD", "MODEL_UNLOAD", "MODELS", "MODEL_CHECK", "MODEL_FORGET", "DEVICE_LIMIT", "PREPARE", "START", "CANCEL",
  "WINDOW" } do
  TYPES[tonumber(C["MP_MSG_" .. name])] = name
end

local function text(span)
  return span.n > 0 and ffi.string(span.p, span.n) or ""
end

local function copy(m, wire)
  local name = TYPES[m.type]
  local out = { name = name, id = m.id, wire = wire }
  if name == "PREPARE" then
    out.model, out.payload = text(m.u.prepare.model), text(m.u.prepare.payload)
  elseif name == "MODEL_DECLARE" or name == "MODEL_CHECK" then
    out.model, out.spec = text(m.u.model_declare.name), text(m.u.model_declare.spec)
  elseif name == "MODEL_LOAD" or name == "MODEL_UNLOAD" or name == "MODEL_FORGET" then
    out.model = text(m.u.model_load.name)
  elseif name == "DEVICE_LIMIT" then
    out.memory = tonumber(m.u.device_limit.memory)
  elseif name == "WINDOW" then
    out.bytes = m.u.window.bytes
  elseif name == "START" then
    out.max_tokens = m.u.start.max_tokens
  end
  return out
end

function M.engine()
  local self = setmetatable({ wires = {}, said = {}, answer = {}, connections = 0, err = ffi.new "struct mp_err" }, Engine)
  self.dir = ffi.string(ffi.C.mkdtemp(ffi.new("char[?]", 64, (os.getenv "TMPDIR" or "/tmp") .. "/mp-play-XXXXXX")))
  self.path = self.dir .. "/e"
  self:listen()
  return self
end

function Engine:listen()
  local fd = ffi.new "int[1]"
  assert(C.mp_wire_listen(self.path, 16, fd, self.err) == 0, ffi.string(self.err.message))
  self.listener = fd[0]
end

--- Nobody listens any more; connections stay.
function Engine:gone()
  if self.listener then
    ffi.C.close(self.listener)
    os.remove(self.path)
    self.listener = nil
  end
end

--- Every connection is cut, as when the process dies; or that one. The listening socket is the supervisor's: it stays.
function Engine:die(wire)
  for i, w in pairs(self.wires) do
    if not wire or w == wire then
      C.mp_wire_free(w)
      self.wires[i] = nil
    end
  end
end

function Engine:free()
  self:die()
  self:gone()
  os.execute("rm -rf " .. self.dir)
end

function Engine:turn()
  local fd = ffi.new "int[1]"
  while self.listener and C.mp_wire_accept(self.listener, fd, self.err) == 0 do
    self.connections = self.connections + 1
    self.wires[self.connections] = C.mp_wire_new(fd[0], C.MP_PEER_ENGINE)
  end
  for i, wire in pairs(self.wires) do
    local m, rc = ffi.new "struct mp_msg", C.mp_wire_readable(wire, self.err)
    while self.wires[i] and C.mp_wire_next(wire, m, self.err) == 1 do
      local said = copy(m, wire)
      if said.name then
        if self.answer[said.name] then
          self.answer[said.name](self, said)
        elseif said.name == "MODELS" then
          self:send(wire, "MODELS_END", said.id)
        end
        if said.name ~= "MODELS" then
          table.insert(self.said, said)
        end
      end
    end
    if self.wires[i] then
      C.mp_wire_writable(wire, self.err)
      if rc < 0 then
        self:die(wire)
      end
    end
  end
end

--- Takes the first message of that name (and, if given, model) off the list; nil: none.
function Engine:take(name, model)
  for i, m in ipairs(self.said) do
    if m.name == name and (not model or m.model == model) then
      return table.remove(self.said, i)
    end
  end
end

function Engine:send(wire, name, id, fill)
  local m = ffi.new "struct mp_msg"
  m.type, m.id = C["MP_MSG_" .. name], id
  if fill then
    fill(m)
  end
  assert(C.mp_wire_send(wire, m, self.err) == 0, ffi.string(self.err.message))
  C.mp_wire_writable(wire, self.err)
end

--- A model's state; id 0: to every connection, as a change of it.
function Engine:state(wire, id, what, o)
  local keep = o.reason or ""
  local function fill(m)
    local s = m.u.model_state
    s.name.p, s.name.n = o.name, #o.name
    s.reason.p, s.reason.n = keep, #keep
    s.state = C["MP_MODEL_" .. what]
    for key, value in pairs(o) do
      if key ~= "name" and key ~= "reason" then
        s[key] = value
      end
    end
  end
  if id ~= 0 then
    return self:send(wire, "MODEL_STATE", id, fill)
  end
  for _, w in pairs(self.wires) do
    self:send(w, "MODEL_STATE", 0, fill)
  end
end

function Engine:bye(reason)
  for _, wire in pairs(self.wires) do
    self:send(wire, "BYE", 0, function(m) m.u.bye.reason.p, m.u.bye.reason.n = reason, #reason end)
  end
  self:die()
end

return M
