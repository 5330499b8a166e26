-- luacheck: no max line length (cases stand on one line each)
--- Live edit: what a reload keeps, what it changes, how it fails, and that 300 of them cost nobody anything. On the scripted device, so that
--- streams are under way exactly when the configuration changes.
local server = require "spec.support.server"
local load = require "spec.support.load"
local http = require "spec.support.http"
local json = require "spec.support.json"

if not server.weights() then
  pending "the default model is not there: ./dev fetch, or MOONPOOL_MODELS"
  return
end

local function read_number(path, pattern)
  local text = server.read_file(path)
  return tonumber(text and text:match(pattern))
end

--- The configuration of these specs: a model, GET /v that names the edit, POST /story (pumped in C), POST /shout (by hand, each event with the
--- edit that it came from).
local function configuration(o)
  o = o or {}
  local models = {}
  for name, keys in pairs(o.models or { smol = "" }) do
    models[#models + 1] = ('mp.model %q { source = %q, devices = { "fake" }, context = 2048, %s }'):format(name, o.source or server.weights(), keys)
  end
  table.sort(models)
  return ([[
local mp = require "moonpool"
mp.server { listen = { %s }, workers = %d%s }
%s
local V = %s
mp.endpoint { route = "GET /v", handle = function() return { v = V } end }
mp.endpoint { route = "POST /story", handle = function(req)
  local body = assert(req:json())
  return mp.models[body.model or "smol"]:chat_stream { messages = { { role = "user", content = body.content } }, max_tokens = body.max_tokens, temperature = 0 }
end }
mp.endpoint { route = "POST /chat", handle = function(req)
  local body = assert(req:json())
  local model = mp.models[body.model or "smol"]
  if not model then return mp.reply { status = 404, json = { error = "no such model" } } end
  local out, err = model:chat { messages = { { role = "user", content = body.content } }, max_tokens = body.max_tokens, temperature = 0 }
  if not out then return nil, err end
  return { text = out.text, v = V }
end }
mp.endpoint { route = "POST /shout", handle = function(req, res)
  local body = assert(req:json())
  local stream = assert(mp.models.smol:chat_stream { messages = { { role = "user", content = body.content } }, max_tokens = body.max_tokens, temperature = 0 })
  local events = res:events()
  for delta in stream:deltas() do
    if not events:send { text = delta.text, v = V } then return end
  end
  events:send { done = stream:result() ~= nil, v = V }
end }
mp.endpoint { route = "GET /models", handle = function()
  local out = {}
  for _, name in ipairs { "smol", "other" } do
    if mp.models[name] then out[name] = mp.models[name]:status() end
  end
  return out
end }
%s]]):format(o.listen or '"127.0.0.1:0"', o.workers or 2, o.server or "", table.concat(models, "\n"), tostring(o.v or 1), o.more or "")
end

local function boot(o)
  o = o or {}
  o.conf = o.conf or configuration(o)
  o.fake = o.fake or { delay_ms = 10 }
  return server.boot(o)
end

--- Writes the configuration (a text, or what `configuration` takes) and has it reloaded by SIGHUP: "ok", "unchanged" or "refused", and what was
--- said: what changed, or every error.
local function reload(s, conf)
  if conf then
    server.write_file(s.conf_path, type(conf) == "string" and conf or configuration(conf))
  end
  local from = #s:log() + 1
  s:signal(1)
  s:until_line("reload %(SIGHUP%)[^\n]*\n", from)
  local text = s:log():sub(from)
  local changes = text:match "reload %(SIGHUP%): generation %d+ serves now: ([^\n]*)"
  if changes then
    return "ok", changes
  elseif text:match "reload %(SIGHUP%): nothing changed" then
    return "unchanged", ""
  end
  return "refused", server.until_true("no errors in the log", function()
    local errors = s:log():sub(from):match "refused, generation %d+ serves on:\n(.+)$"
    return errors and errors:sub(-1) == "\n" and errors
  end)
end

local function version(s)
  return s:request({ path = "/v" }):json().v
end

describe("300 reloads under load", function()
  after_each(server.cleanup)

  local N = server.slow > 1 and 60 or 300
  local TOKENS = 400

  --- Of the gateway: private memory in KiB, open descriptors, threads.
  local function costs(pid)
    local rollup = server.read_file("/proc/" .. pid .. "/smaps_rollup")
    local memory = 0
    for n in rollup:gmatch "Private_%a+: *(%d+) kB" do
      memory = memory + tonumber(n)
    end
    local fds = io.popen("ls /proc/" .. pid .. "/fd | wc -l")
    local n = tonumber(fds:read "*a")
    fds:close()
    return { memory = memory, fds = n, threads = read_number("/proc/" .. pid .. "/status", "Threads:%s*(%d+)") }
  end

  it("lose no request, end every stream on its own generation, load the model once, and leave nothing behind", function()
    local quick = boot { fake = { delay_ms = 0 }, models = { smol = "min_replicas = 1" } }
    local expected = quick:request({ path = "/chat", json = { content = "Hello", max_tokens = TOKENS } }):json().text
    assert(#expected > TOKENS)
    quick:stop()

    local s = boot { models = { smol = "min_replicas = 1, max_concurrency = 32" } }
    local pid = s:pids().gateway
    local written, served, done = 1, 1, 0 -- edits: on disk; known to serve; and how many reloads there were
    local streams, ended, seen_log = {}, 0, 0

    local function open(i)
      local path = i % 2 == 0 and "/story" or "/shout"
      local c = s:connect { timeout = 30 * server.slow }
      streams[i] = { c = c, path = path, least = served, r = c:stream { path = path, json = { content = "Hello", max_tokens = TOKENS } }, text = "" }
      assert.equal(200, streams[i].r.status)
    end

    --- Reads a stream to its end, and judges it.
    local function close(st)
      local text, last, v = {}, nil, nil
      for event in st.r:events() do
        last = json.decode(event.data)
        assert.is_nil(last.error, event.data)
        text[#text + 1] = last.text
        assert.equal(v or last.v, last.v, "a stream with two generations")
        v = last.v
      end
      assert.is_true(last.done)
      assert.is_true(expected == table.concat(text), "a stream of other bytes")
      if st.path == "/shout" then
        assert.is_true(v >= st.least and v <= written, "a stream of an edit that was not there")
      end
      st.c:close()
      ended = ended + 1
    end

    --- Those that look ended by their last bytes.
    local function turn_over()
      for i, st in ipairs(streams) do
        local data = st.c:drain()
        st.c.buffer = data -- kept for the reader
        if data:sub(-5) == "0\r\n\r\n" then
          close(st)
          open(i)
        end
      end
    end

    --- Called at its rate by the load: when the last reload is over, the next.
    local function edit()
      local log = s:log()
      for v in log:sub(seen_log + 1):gmatch "generation (%d+) serves now[^\n]*\n" do
        served, done = tonumber(v), done + 1
      end
      seen_log = #log:match "^.*\n"
      if served == written and written <= N then
        written = written + 1
        server.write_file(s.conf_path .. ".new", configuration { v = written, models = { smol = "min_replicas = 1, max_concurrency = 32" } })
        os.rename(s.conf_path .. ".new", s.conf_path)
        s:signal(1)
      end
      return "GET", "/v"
    end

    for i = 1, 20 do
      open(i)
    end
    local at_100, began = nil, http.now()
    while served <= N do
      local before = served
      local all = load.run(s.url, { seconds = 0.5, { rate = 100, request = function() return "GET", "/v" end }, { rate = 40, request = edit } })
      for _, a in ipairs(all) do
        assert.equal(200, a.status, a.body)
        local v = json.decode(a.body).v
        assert.is_true(v >= before and v <= written, ("edit %d answered while %d to %d served"):format(v, before, written))
      end
      turn_over()
      if not at_100 and served > N / 3 then
        at_100 = costs(pid)
      end
      assert.is_true(http.now() - began < 120 * server.slow, "too slow: " .. served)
    end
    local at_end = costs(pid)
    for _, st in ipairs(streams) do
      close(st)
    end
    assert.equal(N, done)
    assert.is_true(ended > 20)
    print(("%d reloads, %d streams, %.1f s; at a third %d KiB %d fds, at the end %d KiB %d fds"):format(done, ended, http.now() - began, at_100.memory, at_100.fds, at_end.memory, at_end.fds))
    assert.equal(pid, s:pids().gateway)
    local state = s:request({ path = "/models" }):json().smol
    assert.equal(1, state.loads)
    assert.equal(at_100.threads, at_end.threads)
    assert.is_true(math.abs(at_end.fds - at_100.fds) <= 8, ("%d descriptors, then %d"):format(at_100.fds, at_end.fds)) -- the load's connections come and go
    if server.slow == 1 then
      assert.is_true(at_end.memory - at_100.memory <= 2048, ("%d KiB, then %d"):format(at_100.memory, at_end.memory))
    end
  end)
end)
