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

-- luacheck: push ignore 122 (functions of the library are replaced: those that resume, and those that are not pure)
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

-- Clock and chance are no policy's business: its function is pure, so that what it decided can be decided again.
local pure = mp.__pure -- raises while a policy's function runs
local raw_time, raw_date, raw_clock, raw_random, raw_seed = os.time, os.date, os.clock, math.random, math.randomseed

function os.time(t)
  if t == nil then
    pure "os.time() without a table"
  end
  return raw_time(t)
end

function os.date(format, t)
  if t == nil then
    pure "os.date() without a time"
    return raw_date(format)
  end
  return raw_date(format, t)
end

function os.clock()
  pure "os.clock"
  return raw_clock()
end

function math.random(...)
  pure "math.random"
  return raw_random(...)
end

function math.randomseed(...)
  pure "math.randomseed"
  return raw_seed(...)
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

local board, land = mp.__board, mp.__land

local function landed(shared, key, options, ticket, ok, ...)
  land(shared, key, options, ticket, ok, ...)
  if not ok then
    error((...), 0)
  end
  return ...
end

--- What is at the key, or what `compute` gives, which is kept then. Of those who want it at a time one computes.
function mp.__shared.fetch(shared, key, options, compute)
  local ticket, value, err = board(shared, key, options, compute)
  if ticket == false then
    return value, err
  elseif ticket == nil then -- the client left while it waited
    return nil, value
  end
  return landed(shared, key, options, ticket, pcall(compute))
end

mp.__board, mp.__land, mp.__shared = nil, nil, nil

return mp
