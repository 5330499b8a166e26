--- spec/support/server.lua: the real binary, from outside. A server lies in a fresh folder, listens on port 0, and keeps its state and
--- sockets there.
---
---   local server = require "spec.support.server"
---   after_each(server.cleanup)        -- stops what a case started; asserts exit 0, a clean log, no process left
---
---   local s = server.boot { model = { max_concurrency = 1 }, fake = { delay_ms = 20 }, endpoints = "mp.endpoint { … }" }
---   s.url, s.pid, s:pids().gateway, s:pids()["engine fake"]
---   s:request { path = "/hi" }        -- a whole response, on a connection of its own (spec.support.http)
---   s:chat { content = "hello" }      -- POST /chat of the configuration that boot writes; s:story streams it
---   s:until_state { in_flight = 1 }   -- of the model, by GET /models
---   s:until_line "is warm"            -- in the log
---   s:many(30, { content = "hello" }) -- so many chats at once (http.many)
---   s:count "loading %-> warm"        -- lines of the log
---   s:pss()                           -- bytes of memory that its processes have, shared ones by their part
---   s:stop(), s:kill(9), s:wait()
---
--- boot's options: `conf` the whole configuration's text; or `model`/`models` (mp.model's keys; `source` is the default weights',
--- `devices` { "fake" } when `fake` is given), `device` (mp.device's keys, of the models' device), `endpoints` (Lua, with `mp` and the models by name in `models`), `workers`.
--- `files` { name = text } beside it, `args` for serve, `env`, `ready = false` not to wait, `allow` patterns of error lines that are
--- expected in the log.
local http = require "spec.support.http"
local ffi = require "ffi"

ffi.cdef [[
  int fork(void);
  int execvp(const char *file, const char *const argv[]);
  int dup2(int from, int to);
  int open(const char *path, int flags, ...);
  int waitpid(int pid, int *status, int options);
  int kill(int pid, int sig);
  int setenv(const char *name, const char *value, int overwrite);
  int unsetenv(const char *name);
  void _exit(int code);
  char *mkdtemp(char *template);
  int poll(struct spec_pollfd *fds, unsigned long n, int ms);
]]
ffi.C.unsetenv "LD_PRELOAD" -- a sanitizer's runtime is for this process; libtsan kills the shells that it starts

local M = {}
local Server = {}
Server.__index = Server
local live = {}

local build = os.getenv "MOONPOOL_BUILD" or "build/release"
local sanitize = os.getenv "MOONPOOL_SANITIZE"
M.slow = sanitize and sanitize ~= "" and 4 or 1 -- how much longer things may take
M.PATIENCE = 20 * M.slow -- seconds that anything may take

M.binary = (build:sub(1, 1) == "/" and build or os.getenv "PWD" .. "/" .. build) .. "/moonpool"

--- The default model's file; nil when it is not there (the spec is then pending).
function M.weights()
  local path = (os.getenv "MOONPOOL_MODELS" or "models") .. "/smollm2-135m-instruct.gguf"
  local f = io.open(path, "rb")
  if not f then
    return nil
  end
  f:close()
  return path:sub(1, 1) == "/" and path or os.getenv "PWD" .. "/" .. path
end

--- Calls f until it gives something; raises with `what` when that takes too long.
function M.until_true(what, f, patience)
  local deadline = http.now() + (patience or M.PATIENCE)
  repeat
    local result = f()
    if result then
      return result
    end
    ffi.C.poll(nil, 0, 5)
  until http.now() > deadline
  error("timeout: " .. (type(what) == "function" and what() or what), 2)
end

local function read_file(path)
  local f = io.open(path, "rb")
  if not f then
    return nil
  end
  local text = f:read "*a"
  f:close()
  return text
end

local function write_file(path, text)
  local f = assert(io.open(path, "wb"))
  f:write(text)
  f:close()
end

local function shell(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

--- A program with its stdout and stderr in a file. argv[1] is its path. Returns the process id.
function M.spawn(argv, log, env)
  local args = ffi.new("const char *[?]", #argv + 1)
  for i, a in ipairs(argv) do
    args[i - 1] = a
  end
  local pid = ffi.C.fork()
  assert(pid >= 0, "fork")
  if pid > 0 then
    return pid
  end
  ffi.C.unsetenv "LD_PRELOAD"
  for name, value in pairs(env or {}) do
    ffi.C.setenv(name, tostring(value), 1)
  end
  ffi.C.dup2(ffi.C.open("/dev/null", 0), 0)
  local out = ffi.C.open(log, 0x441, ffi.cast("int", 384)) -- O_WRONLY | O_CREAT | O_APPEND, 0600
  ffi.C.dup2(out, 1)
  ffi.C.dup2(out, 2)
  ffi.C.execvp(argv[1], args)
  ffi.C._exit(127)
end

--- { code = n } or { signal = n } once it ended; nil while it runs.
local function ended(pid)
  local status = ffi.new "int[1]"
  if ffi.C.waitpid(pid, status, 1) ~= pid then -- WNOHANG
    return nil
  end
  local s = status[0]
  return s % 128 == 0 and { code = math.floor(s / 256) % 256 } or { signal = s % 128 }
end

--- A process that is there, and not merely waiting for someone to look at its exit status.
function M.alive(pid)
  local stat = read_file("/proc/" .. pid .. "/stat")
  return stat ~= nil and stat:match "%) (%a)" ~= "Z"
end

--- What ps would show.
function M.title(pid)
  local text = read_file("/proc/" .. pid .. "/cmdline")
  return text and text:gsub("%z+$", ""):gsub("%z", " ")
end

--- Process ids of a process' children.
function M.children(pid)
  local out = {}
  for id in (read_file(("/proc/%d/task/%d/children"):format(pid, pid)) or ""):gmatch "%d+" do
    out[#out + 1] = tonumber(id)
  end
  return out
end

-- ---- the configuration ----

local function lua_value(v)
  if type(v) == "string" then
    return ("%q"):format(v)
  elseif type(v) ~= "table" then
    return tostring(v)
  end
  local out = {}
  for key, item in pairs(v) do
    out[#out + 1] = type(key) == "number" and lua_value(item) or ("[%q] = %s"):format(key, lua_value(item))
  end
  return "{ " .. table.concat(out, ", ") .. " }"
end

--- POST /chat { content, … } → { text, finish_reason, usage }; POST /story streams; GET /models → states by name.
local ENDPOINTS = [[
local function ask(req)
  local body, err = req:json()
  if not body then return nil, err end
  local model = models[body.model or main]
  body.model = nil
  if body.content then
    body.messages, body.content = { { role = "user", content = body.content } }, nil
  end
  return model, body
end
mp.endpoint { route = "POST /chat", handle = function(req)
  local model, what = ask(req)
  if not model then return nil, what end
  local out, err = model:chat(what)
  if not out then return nil, err end
  return { text = out.text, finish_reason = out.finish_reason, usage = out.usage }
end }
mp.endpoint { route = "POST /story", handle = function(req)
  local model, what = ask(req)
  if not model then return nil, what end
  return model:chat_stream(what)
end }
mp.endpoint { route = "GET /models", handle = function()
  local out = {}
  for name, model in pairs(models) do out[name] = model:status() end
  return out
end }
]]

local function configuration(o)
  local models = o.models or (o.model and { smol = o.model }) or {}
  local out = {
    'local mp = require "moonpool"',
    ('mp.server { listen = { "127.0.0.1:0" }, workers = %d }'):format(o.workers or 2),
    ("local models, main = {}, %q"):format(o.model and "smol" or next(models) or ""),
  }
  if o.device then
    out[#out + 1] = ("mp.device %q %s"):format(o.fake and "fake" or "cpu", lua_value(o.device))
  end
  for name, keys in pairs(models) do
    local all = { source = M.weights(), devices = o.fake and { "fake" } or nil }
    for key, value in pairs(keys) do
      all[key] = value
    end
    assert(all.source, "no weights: the spec should be pending")
    out[#out + 1] = ("models[%q] = mp.model %q %s"):format(name, name, lua_value(all))
  end
  out[#out + 1] = ENDPOINTS
  out[#out + 1] = o.endpoints or ""
  return table.concat(out, "\n")
end

local function device_options(t)
  local out = {}
  for key, value in pairs(t) do
    out[#out + 1] = key .. "=" .. tostring(value)
  end
  return table.concat(out, ",")
end

-- ---- a server ----

--- A folder of its own: DIR/conf/moonpool.lua, DIR/state, DIR/run, DIR/log.
function M.folder(o)
  local template = ffi.new("char[?]", 64, (os.getenv "TMPDIR" or "/tmp") .. "/mp-spec-XXXXXX")
  local dir = ffi.string(assert(ffi.C.mkdtemp(template)))
  os.execute("mkdir -p " .. dir .. "/conf")
  for name, text in pairs(o.files or {}) do
    os.execute(("mkdir -p '%s'"):format((dir .. "/conf/" .. name):match "^(.*)/"))
    write_file(dir .. "/conf/" .. name, text)
  end
  M.configure(dir, o)
  return dir
end

--- Writes the configuration of boot's options (anew) into a folder.
function M.configure(dir, o)
  write_file(dir .. "/conf/moonpool.lua", o.conf or configuration(o))
end

--- Of a file, as mp.model wants it.
function M.sha256(path)
  return shell("sha256sum '" .. path .. "'"):match "^%x+"
end

function M.boot(o)
  local dir = o.dir or M.folder(o)
  local self = setmetatable({ dir = dir, log_path = dir .. "/log", allow = o.allow or {}, conf_path = dir .. "/conf/moonpool.lua" }, Server)
  local argv = { M.binary, "serve", "--state", o.state or dir .. "/state", "--runtime", o.runtime or dir .. "/run", "--drain",
    tostring(o.drain or 5) }
  for _, a in ipairs(o.args or {}) do
    argv[#argv + 1] = a
  end
  argv[#argv + 1] = self.conf_path
  local env = {
    ASAN_OPTIONS = "exitcode=77:detect_leaks=1:detect_stack_use_after_return=0",
    UBSAN_OPTIONS = "print_stacktrace=1",
    TSAN_OPTIONS = "exitcode=66",
    LSAN_OPTIONS = "exitcode=77",
  }
  if type(o.fake) == "table" then
    env.MOONPOOL_DEVICE_FAKE = device_options(o.fake)
  end
  for name, value in pairs(o.env or {}) do
    env[name] = value
  end
  write_file(self.log_path, "")
  self.pid = M.spawn(argv, self.log_path, env)
  live[self] = true
  if o.ready ~= false then
    self:until_ready()
  end
  return self
end

function Server:log()
  return read_file(self.log_path) or ""
end

--- Waits for the line `ready http://…`; raises with the log when the server ends or takes too long before.
function Server:until_ready()
  M.until_true(function() return "no ready line; the log:\n" .. self:log() end, function()
    self.url = ("\n" .. self:log()):match "\nready (http://[%d%.]+:%d+)\n"
    if not self.url and self:poll() then
      error("the server ended before it was ready; its log:\n" .. self:log(), 0)
    end
    return self.url
  end)
  self.port = tonumber(self.url:match ":(%d+)$")
  return self
end

--- Waits for a pattern in the log, behind byte `from`; returns what it captures and where it ends.
function Server:until_line(pattern, from)
  local first, last
  local found = M.until_true(function() return ("no line '%s' in the log:\n%s"):format(pattern, self:log()) end, function()
    local all = { self:log():find(pattern, from or 1) }
    first, last = all[1], all[2]
    return first and all
  end)
  return found[3] or true, last
end

--- { supervisor = pid, gateway = pid, ["engine cpu"] = pid }: of those that have their titles now.
function Server:pids()
  local out = { supervisor = self.pid }
  for _, pid in ipairs(M.children(self.pid)) do
    local role = (M.title(pid) or ""):match "^moonpool: (.*)$"
    if role and M.alive(pid) then
      out[role] = pid
    end
  end
  return out
end

--- Waits until a role runs, as another process than `before` (optional).
function Server:until_role(role, before)
  return M.until_true("no process 'moonpool: " .. role .. "'", function()
    local pid = self:pids()[role]
    return pid ~= before and pid
  end)
end

function Server:connect(o)
  return http.connect(self.url, { timeout = o and o.timeout or M.PATIENCE })
end

function Server:request(o)
  o.timeout = o.timeout or M.PATIENCE
  return http.request(self.url, o)
end

function Server:chat(o)
  return self:request { path = "/chat", json = o or { content = "Hello", max_tokens = 8 } }
end

function Server:many(n, o)
  return http.many(self.url, n, { path = "/chat", json = o or { content = "Hello", max_tokens = 2 }, timeout = M.PATIENCE })
end

--- How many lines of the log match.
function Server:count(pattern)
  local n = 0
  for line in self:log():gmatch "[^\n]+" do
    n = n + (line:match(pattern) and 1 or 0)
  end
  return n
end

--- Proportional set size of all its processes, bytes.
function Server:pss()
  local sum = 0
  for _, pid in pairs(self:pids()) do
    sum = sum + (tonumber((read_file("/proc/" .. pid .. "/smaps_rollup") or ""):match "\nPss:%s+(%d+) kB") or 0) * 1024
  end
  return sum
end

--- Waits until a role has no process.
function Server:until_no(role)
  M.until_true(function() return role .. " still runs; the log:\n" .. self:log() end, function() return not self:pids()[role] end)
end

--- The connection and the response whose events are still to come.
function Server:story(o)
  local c = self:connect()
  return c, c:stream { path = "/story", json = o or { content = "Hello", max_tokens = 8 } }
end

--- The state of a model (the only one when not named).
function Server:model(name)
  local r = self:request { path = "/models" }
  assert(r.status == 200, r.body)
  local all = r:json()
  return all[name or next(all)]
end

--- Waits until the model's state has all these values.
function Server:until_state(want, name)
  local last
  return M.until_true(
    function() return "the model's state is " .. require("spec.support.json").encode(last) end,
    function()
      last = self:model(name)
      for key, value in pairs(want) do
        if last[key] ~= value then
          return nil
        end
      end
      return last
    end)
end

function Server:signal(sig)
  ffi.C.kill(self.pid, sig)
end

function M.kill(pid, sig)
  ffi.C.kill(pid, sig)
end

--- nil while it runs; { code } or { signal } after.
function Server:poll()
  self.result = self.result or ended(self.pid)
  return self.result
end

--- Waits for its end.
function Server:wait()
  return M.until_true(function() return "the server does not end; its log:\n" .. self:log() end, function() return self:poll() end)
end

local function complaints(self)
  local out = {}
  for line in self:log():gmatch "[^\n]+" do
    local bad = line:match "Z error " or line:match "Sanitizer" or line:match "runtime error:"
    for _, pattern in ipairs(self.allow) do
      bad = bad and not line:match(pattern)
    end
    if bad then
      out[#out + 1] = line
    end
  end
  return table.concat(out, "\n")
end

--- Ends it (SIGTERM) unless it has ended, and checks how: the exit code, the log, what it left behind.
function Server:stop(expect)
  if not live[self] then
    return
  end
  live[self] = nil
  local pids = self:pids()
  for _, pid in ipairs(self.known or {}) do
    pids[pid] = pid
  end
  if not self:poll() then
    self:signal(15)
  end
  local ok, result = pcall(self.wait, self)
  if not ok then
    for _, pid in pairs(pids) do
      ffi.C.kill(pid, 9)
    end
    error(result, 0)
  end
  for role, pid in pairs(pids) do
    M.until_true(("%s is still there; the log:\n%s"):format(role, self:log()), function() return not M.alive(pid) end)
  end
  local log, bad = self:log(), complaints(self)
  local left = result.signal and "" or shell("ls " .. self.dir .. "/run 2>/dev/null")
  os.execute("rm -rf " .. self.dir)
  assert(result.signal == (expect and expect.signal) and result.code == (expect and expect.code or not result.signal and 0 or nil),
    ("ended with %s %s; the log:\n%s"):format(result.signal and "signal" or "code", result.signal or result.code, log))
  assert(bad == "", "the log is not clean:\n" .. bad .. "\n---- all of it:\n" .. log)
  assert(left == "", "left in the runtime directory: " .. left)
end

--- For after_each: stops every server that a case left running.
function M.cleanup()
  local first
  for self in pairs(live) do
    local ok, err = pcall(self.stop, self, self.expect)
    first = first or (not ok and err or nil)
  end
  live = {}
  if first then
    error(first, 0)
  end
end

--- Runs `moonpool …` to its end: exit code, and stdout and stderr together.
function M.run(args, env)
  local log = os.tmpname()
  local argv = { M.binary }
  for _, a in ipairs(args) do
    argv[#argv + 1] = a
  end
  local pid = M.spawn(argv, log, env)
  local result = M.until_true("moonpool " .. table.concat(args, " ") .. " does not end", function() return ended(pid) end)
  local text = read_file(log)
  os.remove(log)
  return result.code or -result.signal, text
end

M.read_file, M.write_file, M.shell = read_file, write_file, shell
return M
