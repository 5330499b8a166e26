--- The cases of run_spec, model_spec and examples_spec once more, with a full garbage collection at every chance: what C holds
--- without telling Lua is found so.
local ffi = require "ffi"
require "spec.support.script"
ffi.cdef "int setenv(const char *name, const char *value, int overwrite); int unsetenv(const char *name);"

describe("with a collection at every chance", function()
  setup(function()
    ffi.C.setenv("MOONPOOL_VM_GC", "stress", 1)
  end)
  teardown(function()
    ffi.C.unsetenv "MOONPOOL_VM_GC"
  end)
  for _, name in ipairs { "run", "model", "examples" } do
    describe(name, setfenv(assert(loadfile("spec/unit/script/" .. name .. "_spec.lua")), getfenv(1)))
  end
end)
