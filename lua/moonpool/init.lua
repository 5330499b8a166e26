--- The part of the script API that is written in Lua; `require "moonpool"` gives what this file returns. The rest is C:
--- one core/script/lua_<area>.c per area. lua/moonpool/api.lua describes the whole for people and editors.
local mp = _G.__moonpool
local PARK = mp.__park -- what a waiting function yields: it goes through a script's own coroutines, out to the server

local raw_resume, raw_yield, create = coroutine.resume, coroutine.yield, coroutine.create

--- A coroutine of the script gave control back. When something inside it waits for the server, its resumer waits too, and
--- hands what comes back down again; otherwise it is the script's own yield, return or error.
local relay
function relay(co, ok, first, ...)
  if ok and first == PARK then
    return relay(co, raw_resume(co, raw_yield(PARK)))
  end
  return ok, first, ...
end

-- luacheck: push ignore 122 (the two functions of the library that resume are replaced)
function coroutine.resume(co, ...)
  return relay(co, raw_resume(co, ...))
end

local function unwrap(ok, ...)
  if not ok then
    error((...), 0)
  end
  return ...
end

function coroutine.wrap(f)
  local co = create(f)
  return function(...)
    return unwrap(relay(co, raw_resume(co, ...)))
  end
end
-- luacheck: pop

--- The plugins of `chain` from the i-th on, then the endpoint: each may act before and after `next()`.
local function onion(chain, i, handle, req, res, input)
  local link = chain[i]
  while link and not link.handle do
    i = i + 1
    link = chain[i]
  end
  if not link then
    return handle(req, res, input)
  end
  local called = false
  return link.handle(link.conf, req, res, function()
    if called then
      error("next() was called a second time", 2)
    end
    called = true
    return onion(chain, i + 1, handle, req, res, input)
  end)
end

--- What a request's coroutine runs: every plugin's `admit`, then the input's check, then the onion.
function mp.__enter(chain, check, handle, req, res)
  for i = 1, #chain do
    local link = chain[i]
    if link.admit then
      local ok, err = link.admit(link.conf, req)
      if not ok then
        return nil, err or { code = "forbidden", message = "not admitted", status = 403 }
      end
    end
  end
  local input, err
  if check then
    input, err = check(req)
    if err then
      return nil, err
    end
  end
  return onion(chain, 1, handle, req, res, input)
end

return mp
