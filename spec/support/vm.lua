--- spec/support/vm.lua: a VM of core/vm for specs. `local vm = require("spec.support.vm").new { memory = … }`;
--- `vm:run(source)` -> its result as text | nil, message, code, trace.
local C, ffi = require "spec.support.ffi"("core/vm/vm.h", "core/vm/lua_json.h")

ffi.cdef [[
  int lua_gettop(lua_State *L);
  void lua_settop(lua_State *L, int index);
  int lua_type(lua_State *L, int index);
  const char *lua_tolstring(lua_State *L, int index, size_t *n);
  int lua_toboolean(lua_State *L, int index);
  lua_State *lua_newthread(lua_State *L);
  void lua_xmove(lua_State *from, lua_State *to, int n);
  int lua_resume(lua_State *L, int nargs);
  int lua_status(lua_State *L);
]]
jit.off() -- specs call VMs that call back; nothing here is worth compiling

local M = { C = C, ffi = ffi, lua = ffi.C }
local VM = {}
VM.__index = VM

--- The value at idx as text; nil for nil.
local function text_at(L, idx)
  local t = ffi.C.lua_type(L, idx)
  if t == 0 then
    return nil
  elseif t == 1 then
    return ffi.C.lua_toboolean(L, idx) ~= 0 and "true" or "false"
  end
  local n = ffi.new "size_t[1]"
  local s = ffi.C.lua_tolstring(L, idx, n)
  return s ~= nil and ffi.string(s, n[0]) or "?"
end
M.text_at = text_at

function M.buf(b)
  local s = b.data ~= nil and ffi.string(b.data, b.len) or ""
  C.mp_buf_free(b)
  return s
end

---@param opts table? memory, steps, gc_stress, loader = function(module) -> source, chunk; print = function(where, text)
function M.new(opts)
  opts = opts or {}
  local o, err = ffi.new "struct mp_vm_opts", ffi.new "struct mp_err"
  o.memory, o.steps, o.gc_stress = opts.memory or 0, opts.steps or 0, opts.gc_stress or false
  local self = setmetatable({ err = err, callbacks = {} }, VM)
  if opts.loader then
    self.callbacks[1] = ffi.cast("mp_vm_loader", function(_, module, out, chunk, e)
      local source, name, problem = opts.loader(ffi.string(module))
      if problem then
        return C.mp_err_set(e, ffi.C.MP_EIO, "%s", problem)
      elseif not source then
        return ffi.C.MP_ENOENT
      end
      C.mp_buf_put(out, source, #source)
      C.mp_buf_puts(chunk, name)
      return 0
    end)
    o.loader = self.callbacks[1]
  end
  if opts.print then
    self.callbacks[2] = ffi.cast("mp_vm_print", function(_, where, text, n)
      opts.print(ffi.string(where), ffi.string(text, n))
    end)
    o.print = self.callbacks[2]
  end
  self.vm = C.mp_vm_new(o, err)
  if self.vm == nil then
    return nil, ffi.string(err.message), err.code
  end
  self.L = C.mp_vm_state(self.vm)
  return self
end

--- Loads source on the VM's main thread. True, or nil, message, code.
function VM:load(source, chunk)
  local rc = C.mp_vm_load(self.L, source, #source, chunk or "@t.lua", self.err)
  if rc ~= 0 then
    return nil, ffi.string(self.err.message), rc
  end
  return true
end

--- Runs source through mp_vm_pcall.
function VM:run(source, chunk)
  local ok, message, code = self:load(source, chunk)
  if not ok then
    return nil, message, code
  end
  local trace = ffi.new "struct mp_buf"
  local rc = C.mp_vm_pcall(self.L, 0, 1, trace, self.err)
  local traced = M.buf(trace)
  if rc ~= 0 then
    return nil, ffi.string(self.err.message), rc, traced
  end
  local result = text_at(self.L, -1)
  ffi.C.lua_settop(self.L, -2)
  return result
end

--- Makes a coroutine of source; it stays anchored on the main thread's stack.
function VM:coroutine(source)
  local co = ffi.C.lua_newthread(self.L)
  assert(self:load(source))
  ffi.C.lua_xmove(self.L, co, 1)
  return co
end

--- Resumes: "done", result | "yield" | "error", message, code, trace.
function VM:resume(co)
  local status = ffi.C.lua_resume(co, 0)
  if status == 0 then
    return "done", ffi.C.lua_gettop(co) > 0 and text_at(co, -1) or nil
  elseif status == 1 then
    return "yield"
  end
  local trace = ffi.new "struct mp_buf"
  local rc = C.mp_vm_resume_error(self.vm, co, status, trace, self.err)
  return "error", ffi.string(self.err.message), rc, M.buf(trace)
end

function VM:free()
  C.mp_vm_free(self.vm)
  for _, cb in pairs(self.callbacks) do
    cb:free()
  end
end

return M
