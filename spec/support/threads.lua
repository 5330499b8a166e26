--- spec/support/threads.lua: runs a bit of C on several threads of this process at once, against the library under test: LuaJIT itself has
--- one thread. The C is compiled where the spec runs.
---
---   threads.run(8, 1000, "void mp_cell_add(void *, double); mp_cell_add(arg, 1);", cell)
---
--- `i` counts from 0 in each thread; `arg` is the last argument as a void *.
local ffi = require "ffi"

local M = {}
local build = os.getenv "MOONPOOL_BUILD" or "build/release"
local n_made = 0

local FRAME = [[
#include <pthread.h>
#include <stdio.h>
#include <string.h>
static void *thread(void *arg)
{
    for (int i = 0; i < %d; i++) {
        %s
    }
    return NULL;
}
int %s(void *arg)
{
    pthread_t t[64];
    int n = 0;
    for (; n < %d && pthread_create(&t[n], NULL, thread, arg) == 0; n++)
        ;
    for (int i = 0; i < n; i++)
        pthread_join(t[i], NULL);
    return n;
}
]]

function M.run(threads, times, code, arg)
  assert(threads <= 64)
  n_made = n_made + 1
  local base = os.tmpname()
  local name = ("spec_threads_%s_%d"):format(base:gsub("%W", "_"), n_made)
  local source, object = base .. ".c", base .. ".so"
  local f = assert(io.open(source, "w"))
  f:write(FRAME:format(times, code, name, threads))
  f:close()
  local ok = os.execute(("cc -std=gnu11 -O1 -shared -fPIC -o %s %s -L%s -lmoonpool-spec -lpthread"):format(object, source, build))
  assert(ok == 0 or ok == true, "the spec's C does not compile")
  ffi.cdef(("int %s(void *);"):format(name))
  local library = ffi.load(object)
  local ran = library[name](arg)
  os.remove(source)
  os.remove(object)
  os.remove(base)
  assert(ran == threads, "threads could not be made")
end

return M
