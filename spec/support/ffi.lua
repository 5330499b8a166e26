--- spec/support/ffi.lua: calls C from specs. `local C = require("spec.support.ffi")("core/base/json.h", …)` declares what
--- the headers say (run through the compiler's preprocessor with empty system headers) and returns the library.
-- Compiled, LuaJIT 2.1.0-beta3 now and then reads a struct's fields from before the C call that filled them (a crash in one run of
-- sixteen of spec/unit/engine/process_spec.lua). Specs that compute much by themselves switch it on again.
require("jit").off()

local ffi = require "ffi"

-- busted forgets modules between files; a second ffi would know none of the first one's types, nor be rid of them.
local registry = debug.getregistry()
if registry["spec.support.ffi"] then
  return registry["spec.support.ffi"]
end
package.preload.ffi = function()
  return ffi
end

-- The sanitizer's runtime is for this process: a preloaded libtsan kills the shell that io.popen starts.
ffi.cdef "int unsetenv(const char *);"
ffi.C.unsetenv "LD_PRELOAD"

local build = os.getenv "MOONPOOL_BUILD" or "build/release"
local done, library = {}, nil

--- What LuaJIT's C parser lacks, taken out of the preprocessed text.
local function simplify(text)
  text = text:gsub("__attribute__%s*%b()", ""):gsub("_Static_assert%s*%b();", "")
  text = text:gsub("static inline[^;{]-%b()%s*%b{}", "")
  return text
end

--- A header declares its includes too; each declaration must reach cdef once, so lines carry their file. A file's own last
--- line comes after those of all that it includes: in the order of last lines, leaves come before roots.
local function declare(header)
  local pipe = assert(io.popen("cc -E -nostdinc -D_Atomic= -Ispec/support/stub -I. " .. header))
  local file, chunks, order, last, n = nil, {}, {}, {}, 0
  for line in pipe:lines() do
    n = n + 1
    local name = line:match '^# %d+ "([^"]*)"'
    if name then
      file = name:gsub("^%./", "") -- an include is found through -I.
      if not chunks[file] then
        chunks[file] = {}
        order[#order + 1] = file
      end
    elseif file and not file:match "^<" and not file:match "^spec/support/stub" then
      table.insert(chunks[file], line)
      last[file] = line:match "%S" and n or last[file]
    end
  end
  pipe:close()
  table.sort(order, function(a, b)
    return (last[a] or 0) < (last[b] or 0)
  end)
  for _, name in ipairs(order) do
    if not done[name] and not name:match "^<" and not name:match "^spec/support/stub" then
      done[name] = true
      ffi.cdef(simplify(table.concat(chunks[name], "\n")))
    end
  end
end

local function headers(...)
  for _, header in ipairs { ... } do
    if not done[header] then
      declare(header)
    end
  end
  library = library or ffi.load(build .. "/libmoonpool-spec.so")
  return library, ffi
end

registry["spec.support.ffi"] = headers
return headers
