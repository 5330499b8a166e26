--- spec/support/script.lua: configurations and handlers without sockets and engines.
--- `script.problems(source, files?)` -> what is wrong with a configuration, as text ("" when nothing is).
--- `local app = script.app(source, opts?)` builds a generation; `app:request { method, path, json, body, query, headers }` runs
--- a handler and gives its answer; the models' calls come to `app.calls`, where the spec plays the engine.
local C, ffi = require "spec.support.ffi"(
  "core/script/generation.h", "core/script/run.h", "core/script/keys.h", "core/script/policy.h", "core/pool/provider.h", "core/net/evloop.h", "core/base/arena.h",
  "core/base/log.h", "core/base/clock.h")
local json = require "spec.support.json"
jit.off() -- C calls back into this file

if not os.getenv "MOONPOOL_SPEC_LOG" then
  C.mp_log_level(4) -- most requests of these specs fail on purpose: their log lines would drown what matters
end

local M = { C = C, ffi = ffi, json = json }
local folders = 0

--- Writes { name = text } into a fresh folder; its path.
function M.folder(files)
  folders = folders + 1
  local dir = os.tmpname()
  os.remove(dir)
  dir = dir .. "." .. folders
  for name, text in pairs(files) do
    local sub = (dir .. "/" .. name):match "^(.*)/"
    assert(os.execute("mkdir -p '" .. sub .. "'") == 0)
    local f = assert(io.open(dir .. "/" .. name, "wb"))
    f:write(text)
    f:close()
  end
  return dir
end

function M.remove(dir)
  assert(dir:match "^/tmp/" or dir:match(os.getenv "TMPDIR" or "^/tmp/"))
  os.execute("rm -rf '" .. dir .. "'")
end

function M.text(b)
  local s = b.data ~= nil and ffi.string(b.data, b.len) or ""
  C.mp_buf_free(b)
  return s
end

--- A model file that is there, and nothing more.
local WEIGHTS = { ["conf/tiny.gguf"] = "GGUF" }
local HEAD = 'local mp = require "moonpool"\n'

--- Builds conf/moonpool.lua. -> generation | nil, problems as text with the folder shown as "conf". The folder is removed.
function M.build(source, opts)
  opts = opts or {}
  local files = { ["conf/moonpool.lua"] = (opts.raw and "" or HEAD) .. source }
  for _, more in ipairs { WEIGHTS, opts.files or {} } do
    for name, text in pairs(more) do
      files[name] = text
    end
  end
  local dir = M.folder(files)
  local err, sources = ffi.new "struct mp_err", ffi.new "struct mp_sources *[1]"
  local rc = C.mp_sources_open(sources, dir .. "/conf/moonpool.lua", err)
  assert(rc == 0, ffi.string(err.message))
  local stress = opts.collect or os.getenv "MOONPOOL_VM_GC" == "stress"
  local options = ffi.new("struct mp_generation_options", { workers = opts.workers or 1, number = 1, collect_always = stress })
  local problems, out = ffi.new "struct mp_problems", ffi.new "struct mp_generation *[1]"
  rc = C.mp_generation_build(out, sources[0], options, problems)
  local b = ffi.new "struct mp_buf"
  C.mp_problems_print(problems, b)
  local text = M.text(b):gsub(dir:gsub("%p", "%%%0") .. "/", "")
  C.mp_problems_free(problems)
  M.remove(dir)
  if rc < 0 then
    C.mp_sources_free(sources[0])
    return nil, text
  end
  assert(text == "", text)
  return out[0]
end

function M.problems(source, opts)
  local g, text = M.build(source, opts)
  if g then
    C.mp_generation_free(g)
    return ""
  end
  return text
end

-- The callbacks exist once: LuaJIT has few of them. Objects are found by their number in the owner's pointer.
local requests, apps, numbers = {}, {}, 0

local function by_owner(x)
  return requests[tonumber(ffi.cast("intptr_t", x.owner))]
end

local function header_table(headers, n)
  local t = {}
  for i = 0, tonumber(n) - 1 do
    local name = ffi.string(headers[i].name, headers[i].name_len)
    t[name] = (t[name] and t[name] .. ", " or "") .. ffi.string(headers[i].value, headers[i].value_len)
  end
  return t
end

local exchange_ops = ffi.new("struct mp_exchange_ops", {
  reply = function(x, status, headers, n_headers, body, n)
    local r = by_owner(x)
    assert(not r.status, "answered twice")
    r.status, r.headers = status, header_table(headers, n_headers)
    r.body = n > 0 and ffi.string(body, n) or ""
  end,
  begin = function(x, status, headers, n_headers)
    local r = by_owner(x)
    assert(not r.status, "answered twice")
    r.status, r.headers, r.events, r.body = status, header_table(headers, n_headers), {}, ""
  end,
  write = function(x, data, n)
    local r = by_owner(x)
    assert(r.events and not r.finished, "a write outside of a stream")
    local text = ffi.string(data, n)
    r.body = r.body .. text
    for event in text:gmatch "data: (.-)\n\n" do
      table.insert(r.events, event)
    end
    return not r.slow
  end,
  finish = function(x, ok)
    local r = by_owner(x)
    assert(r.events and not r.finished, "finished twice")
    r.finished = ok and "whole" or "broken"
  end,
  ["end"] = function(x)
    local r = by_owner(x)
    assert(not r.ended, "ended twice")
    r.ended = true
  end,
})

local function by_link(link)
  return apps[tonumber(ffi.cast("intptr_t", link))]
end

local function find_call(app, call)
  for i = #app.calls, 1, -1 do -- an address is used again when its call is gone
    if app.calls[i].ptr == call then
      return app.calls[i]
    end
  end
end

local provider_ops = ffi.new("struct mp_provider_ops", {
  name = "spec",
  start = function() return 0 end,
  stop = function() return 0 end,
  ready = function() return true end,
  send = function(link, call)
    local args = C.mp_call_args(call)
    local app = by_link(link)
    table.insert(app.calls, setmetatable({
      ptr = call, kind = tonumber(args.kind), payload = ffi.string(args.payload, args.n), start = args.start, window = 0,
      model = ffi.string(C.mp_pool_model_name(args.model)), app = app }, M.Call))
    return 0
  end,
  go = function(link, call)
    find_call(by_link(link), call).going = true
  end,
  cancel = function(link, call)
    find_call(by_link(link), call).cancelled = true
  end,
  window = function(link, call, bytes)
    local c = find_call(by_link(link), call)
    c.window = c.window + tonumber(bytes)
  end,
})

--- The engine's side of one call.
local Call = {}
Call.__index = Call
M.Call = Call

local function usage(prompt, completion, ns)
  return ffi.new("struct mp_usage", { prompt_tokens = prompt or 7, completion_tokens = completion or 0, device_ns = ns or 0 })
end

-- The pool's clock stands, but for these: until a prompt is prepared, and then until each text.
local PREPARING, DECODING = 12345678, 40000600

--- The times in the usage of an answer in so many texts.
function M.times(texts)
  return { device_seconds = 0.25, queue_seconds = 0.012346, load_seconds = 0, prefill_seconds = 0.040001,
    decode_seconds = ({ 0, 0.040001, 0.080001 })[texts], ttft_seconds = 0.052346 }
end

local function pass(app, ns)
  app.now = app.now + ns
  C.mp_pool_set_time(app.pool, app.now)
end

function Call:prepared(n)
  pass(self.app, PREPARING)
  C.mp_call_on_prepared(self.ptr, n or 7, 4096)
  return self
end

function Call:text(s, tokens)
  pass(self.app, DECODING)
  C.mp_call_on_text(self.ptr, s, #s, usage(7, tokens or 1, 1000))
  return self
end

function Call:done(opts)
  opts = opts or {}
  C.mp_call_on_done(self.ptr, opts.length and C.MP_MSG_FINISH_LENGTH or C.MP_MSG_FINISH_STOP, usage(7, opts.tokens or 3, 250000000))
  return self
end

function Call:failed(code, message, retry_after)
  local err = ffi.new "struct mp_err"
  C.mp_err_set(err, C.mp_err_from_name(code), "%s", message)
  C.mp_call_on_failed(self.ptr, err, retry_after or 0)
  return self
end

--- prepared, the pieces, done.
function Call:answer(...)
  self:prepared()
  for i = 1, select("#", ...) do
    self:text((select(i, ...)))
  end
  return self:done()
end

local App = {}
App.__index = App

---@param opts table? files, raw, collect; models: false for no engine
function M.app(source, opts)
  opts = opts or {}
  numbers = numbers + 1
  local g, text = M.build(source, opts)
  assert(g, text)
  local self = setmetatable({ generation = g, calls = {}, number = numbers, open = {} }, App)
  apps[numbers] = self
  self.loop = C.mp_evloop_new()
  if opts.models ~= false then
    self.pool, self.now = C.mp_pool_new(), 0
    pass(self, 1e9)
    local slot = C.mp_pool_provide(self.pool, "cpu", provider_ops, nil)
    local config = C.mp_generation_config(g)
    local model, err = ffi.new "struct mp_pool_model *[1]", ffi.new "struct mp_err"
    for i = 0, config.n_models - 1 do
      local m = config.models[i]
      assert(C.mp_pool_declare(self.pool, m.name, m.devices, m.n_devices, model, err) == 0, ffi.string(err.message))
    end
    self.port = C.mp_pool_port_new(self.pool, nil, nil)
    C.mp_pool_port_bind(self.port, slot, ffi.cast("void *", numbers))
  end
  self.worker = C.mp_script_worker_new(0, C.mp_evloop_uv(self.loop), self.port)
  return self
end

local Request = {}
Request.__index = Request

--- The answer so far: status, headers, body, json, events (a list of data), finished, ended.
---@param r table method, path, query, body or json, headers = { { name, value }, … }
function App:request(r)
  numbers = numbers + 1
  local self_ = setmetatable({ app = self, slow = r.slow }, Request)
  requests[numbers] = self_
  self_.number = numbers
  local method = r.method or "POST"
  local body = r.body or (r.json and json.encode(r.json)) or ""
  local headers = r.headers or {}
  local list = ffi.new("struct mp_header[?]", #headers + 1)
  for i, h in ipairs(headers) do
    list[i - 1] = { h[1], h[2], #h[1], #h[2] }
  end
  local x = ffi.new "struct mp_exchange"
  x.ops, x.owner, x.arena = exchange_ops, ffi.cast("void *", numbers), C.mp_arena_new()
  x.id, x.method, x.target, x.path, x.query = "req-1", method, r.path, r.path, r.query or ""
  x.remote, x.headers, x.n_headers, x.body, x.body_n = "127.0.0.1:5", list, #headers, body, #body
  self_.keep = { r, headers, list, body, method }
  self_.x = x
  local match = ffi.new "struct mp_route_match"
  local found = C.mp_generation_route(self.generation, method, r.path, match)
  assert(found == C.MP_ROUTE_FOUND, "no route for " .. method .. " " .. r.path)
  table.insert(self.open, self_)
  C.mp_run_start(self.worker, self.generation, match, x)
  return self_
end

function Request:json()
  return json.decode(self.body)
end

--- The client read what was sent.
function Request:writable()
  self.slow = false
  C.mp_exchange_writable(self.x)
  return self
end

function Request:leave()
  C.mp_exchange_closed(self.x)
  return self
end

--- Turns the loop until the request has ended.
function Request:wait()
  while not self.ended do
    assert(C.mp_evloop_turn(self.app.loop, true), "nothing will end this request")
  end
  return self
end

--- Every run must be at its end.
function App:close()
  local runs = C.mp_script_worker_runs(self.worker)
  C.mp_script_worker_cancel(self.worker, nil, "MP_CANCEL_SHUTDOWN")
  for _, r in ipairs(self.open) do
    C.mp_arena_free(r.x.arena)
    requests[r.number] = nil
  end
  C.mp_script_worker_free(self.worker)
  if self.port then
    C.mp_pool_port_free(self.port)
    C.mp_pool_free(self.pool)
  end
  C.mp_generation_free(self.generation)
  C.mp_evloop_free(self.loop)
  apps[self.number] = nil
  assert(runs == 0, "runs that did not end: " .. tostring(runs))
end

return M
