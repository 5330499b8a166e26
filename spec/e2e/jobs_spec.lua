-- luacheck: no max line length (cases stand on one line each)
--- mp.job on a real server: ticks over reloads and crashes, what a run may do and how it ends, overlap; mp.shared between workers.
local server = require "spec.support.server"
local cli = require "spec.support.cli"
local tiny = require "spec.support.tiny"

local weights = os.tmpname()
tiny.write(weights)
teardown(function() os.remove(weights) end)
after_each(server.cleanup)

local function configuration(body, v)
  return ([[
local mp = require "moonpool"
mp.server { listen = { "127.0.0.1:0" }, workers = 2, metrics = true }
local d = mp.shared "d" {}
local V = %d
mp.endpoint { route = "GET /v", handle = function() return { v = V } end }
mp.endpoint { route = "GET /get", handle = function(req) return { v = d:get(req.query.k) } end }
%s]]):format(v or 1, body)
end

local function boot(body, o)
  o = o or {}
  o.conf = configuration(body)
  return server.boot(o)
end

local TICK = [[mp.job "tick" { every = 0.1, run = function(job) mp.log.info(("ticked %.3f missed %d"):format(job.tick, job.missed)) end }]]

--- { at, missed } of each run of TICK, in order.
local function ticks(s)
  local list = {}
  for at, missed in s:log():gmatch "ticked (%d+%.%d+) missed (%d+)" do
    list[#list + 1] = { at = tonumber(at), missed = tonumber(missed) }
  end
  return list
end

local function until_ticks(s, n)
  return server.until_true(function() return ("%d ticks; the log:\n%s"):format(#ticks(s), s:log()) end, function()
    local list = ticks(s)
    return #list >= n and list
  end)
end

--- No tick twice, none lost: each comes a tenth of a second behind the one before it, or that many more as it says. lost: how many may have
--- been cut off in their runs.
local function check_ticks(list, lost)
  for i = 2, #list do
    local steps = (list[i].at - list[i - 1].at) / 0.1
    local whole = math.floor(steps + 0.5)
    assert.is_true(math.abs(steps - whole) < 0.05, ("the phase was lost: %.3f behind %.3f"):format(list[i].at, list[i - 1].at))
    assert.is_true(whole >= 1, ("fired twice: %.3f"):format(list[i].at))
    local unaccounted = whole - 1 - list[i].missed
    assert.is_true(unaccounted >= 0 and unaccounted <= lost, ("%d ticks before %.3f, of which it knows %d"):format(whole - 1, list[i].at, list[i].missed))
    lost = lost - unaccounted
  end
end

describe("mp.job", function()
  it("fires each tick once, in its phase, over twenty reloads", function()
    local s = boot(TICK)
    until_ticks(s, 3)
    for v = 2, 21 do
      server.write_file(s.conf_path, configuration(TICK, v))
      local r = cli.run(s, "reload")
      assert.equal(0, r.code, r.out)
    end
    assert.equal(21, s:request({ path = "/v" }):json().v)
    local list = until_ticks(s, #ticks(s) + 3)
    check_ticks(list, 0)
    assert.is_true(#list >= 6)
  end)

  it("goes on behind the last tick when the gateway was killed", function()
    local s = boot(TICK, { allow = { "gateway" } })
    for _ = 1, 3 do
      local n = #until_ticks(s, #ticks(s) + 3)
      local pid = s:pids().gateway
      server.kill(pid, 9)
      s:until_role("gateway", pid)
      until_ticks(s, n + 3)
    end
    check_ticks(ticks(s), 3)
  end)

  it("makes up for what was missed while no server ran, once, late", function()
    local state = os.tmpname()
    os.remove(state)
    os.execute("mkdir -m 700 " .. state)
    finally(function() os.execute("rm -rf " .. state) end)
    local hours = [[mp.job "hours" { every = 3600, run = function(job) mp.log.info(("made up for %.0f, late %.0f, missed %d"):format(job.tick, job.late, job.missed)) end }]]
    local last = os.time() - 2 * 3600 - 600
    server.write_file(state .. "/jobs", ('{"hours":{"what":"every 3600","from":%d,"last":%d}}'):format(last, last))
    for round = 1, 2 do
      local s = boot(TICK .. hours, { state = state })
      if round == 1 then
        s:until_line "made up for"
        local tick, late, missed = s:log():match "made up for (%d+), late (%d+), missed (%d)"
        assert.same({ last + 2 * 3600, 1 }, { tonumber(tick), tonumber(missed) })
        assert.is_true(tonumber(late) >= 600 and tonumber(late) < 700)
      end
      until_ticks(s, 4)
      assert.equal(round == 1 and 1 or 0, select(2, s:log():gsub("made up for", "")))
      s:stop()
    end
  end)

  it("begins anew when what it remembered cannot be read", function()
    local state = os.tmpname()
    os.remove(state)
    os.execute("mkdir -m 700 " .. state)
    finally(function() os.execute("rm -rf " .. state) end)
    server.write_file(state .. "/jobs", '{"tick":{"what":')
    local s = boot(TICK, { state = state })
    s:until_line "jobs: [^\n]*/jobs is not used: line 1"
    check_ticks(until_ticks(s, 3), 0)
  end)

  it("uses a model, and scales it", function()
    local s = boot(([[local smol = mp.model "smol" { source = %q }
      mp.job "warm" { every = 0.2, run = function(job)
        assert(smol:scale { min_replicas = 1 })
        local both = assert(mp.all {
          out = function() return smol:complete { prompt = "a", max_tokens = 2 } end,
          nap = function() return mp.sleep(0.01) end,
        })
        mp.log.info("wrote", { tokens = both.out.usage.completion_tokens })
      end }]]):format(weights), { env = { MOONPOOL_DEVICE_CPU = "threads=1" } })
    s:until_line "wrote job=warm tokens=%d"
    local jobs = server.until_true("no run is counted", function()
      local all = cli.run(s, "status", "--json"):json().jobs
      return all[1].runs >= 1 and all
    end)
    assert.same({ "warm", 0.2, "node", 0 }, { jobs[1].name, jobs[1].every, jobs[1].per, jobs[1].failed })
    local model = cli.run(s, "models", "--json"):json()
    model = (model.models or model)[1]
    assert.equal(1, model.settings.min_replicas.value)
  end)

  it("is stopped at its limits, and what went wrong is logged with its place and counted", function()
    local s = boot([[
      mp.job "slow" { every = 0.2, timeout = 0.1, run = function() mp.sleep(60) end }
      mp.job "spin" { every = 0.3, run = function() while true do end end }
      mp.job "bad" { every = 0.2, run = function() error "boom" end }
      mp.job "no" { every = 0.2, run = function() return nil, { code = "teapot", message = "short and stout" } end }
      mp.job "good" { every = 0.1, run = function() return true end }
    ]], { allow = { "job '%a+' %(" } })
    s:until_line "job 'slow' %([^\n]*moonpool.lua:7%): stopped at [^\n]*moonpool.lua:7: it ran for longer than its timeout %(0.1 s%)"
    s:until_line "job 'spin' %([^\n]*%): stopped at [^\n]*moonpool.lua:8 after [%d.]+ ms of CPU time"
    s:until_line "job 'bad' %([^\n]*%): [^\n]*moonpool.lua:9: boom"
    s:until_line "job 'no' %([^\n]*%): short and stout"
    local metrics = server.until_true("not all are counted", function()
      local text = s:request({ path = "/metrics" }).body
      return text:match 'job_runs_total{job="slow",result="timeout"}' and text:match 'job_runs_total{job="spin",result="failed"}'
        and text:match 'job_runs_total{job="bad",result="failed"}' and text:match 'job_runs_total{job="no",result="failed"}' and text
    end)
    assert.matches('job_runs_total{job="good",result="ok"} %d', metrics)
    assert.is_nil(metrics:match 'job="good",result="failed"')
    assert.matches("\nspin [^\n]+ stopped at [^\n]*moonpool.lua:8 after [%d.]+ ms of CPU time", cli.run(s, "status").out)
    for _, job in ipairs(cli.run(s, "status", "--json"):json().jobs) do
      if job.name == "bad" then
        assert.is_true(job.failed >= 1)
        assert.matches("moonpool.lua:9: boom", job.error)
      elseif job.name == "good" then
        assert.same({ 0, nil }, { job.failed, job.error })
      end
    end
  end)

  it("keeps to its overlap", function()
    local body = {}
    for _, overlap in ipairs { "skip", "queue", "allow" } do
      body[#body + 1] = ([[mp.job "%s" { every = 0.1, overlap = "%s", run = function(job)
        local n = d:incr "%s"
        mp.sleep(0.25)
        d:incr("%s", -1)
        mp.log.info(("%s with %%d, late %%.3f, missed %%d"):format(n, job.late, job.missed))
      end }]]):format(overlap, overlap, overlap, overlap, overlap)
    end
    local s = boot(table.concat(body, "\n"))
    s:until_line "allow with [2-4],"
    s:until_line "skip with 1, late [%d.]+, missed [2-9]"
    s:until_line "queue with 1, late [%d.]+, missed [1-9]"
    assert.is_nil(s:log():match "skip with [2-9]" or s:log():match "queue with [2-9]")
    assert.matches('job_runs_total{job="skip",result="skipped"} %d', s:request({ path = "/metrics" }).body)
  end)

  it("runs in every worker when it is per worker, and the workers share what one of them computes", function()
    local s = boot [[local me = mp.uuid()
      mp.job "each" { every = 0.2, per = "worker", run = function(job)
        local v = d:fetch(tostring(job.tick), { ttl = 60 }, function() d:incr "computed" mp.sleep(0.05) return mp.uuid() end)
        mp.log.info(("me %s tick %.3f value %s"):format(me, job.tick, v))
      end }]]
    s:until_line "me %S+ tick"
    server.until_true("not enough runs", function()
      local _, n = s:log():gsub("me %S+ tick", "")
      return n >= 8
    end)
    local by_tick, workers = {}, {}
    for me, tick, value in s:log():gmatch "me (%S+) tick (%S+) value (%S+)" do
      workers[me] = true
      by_tick[tick] = by_tick[tick] or {}
      table.insert(by_tick[tick], { me, value })
    end
    local n = 0
    for _ in pairs(workers) do
      n = n + 1
    end
    assert.equal(2, n)
    for tick, list in pairs(by_tick) do
      assert.is_true(#list <= 2, tick)
      if #list == 2 then
        assert.equal(list[1][2], list[2][2])
        assert.not_equal(list[1][1], list[2][1])
      end
    end
  end)

  it("is cancelled when the server stops", function()
    local s = boot [[mp.job "long" { every = 0.1, run = function() mp.log.info "begun" mp.sleep(3600) end }]]
    s:until_line "begun"
    local ended = s.log
    s:signal(15)
    assert.equal(0, s:wait().code)
    assert.matches("job 'long' %([^\n]*%): cancelled: the server is stopping", ended(s))
  end)

  it("leaves what it wrote to mp.shared where every worker and generation finds it", function()
    local body = [[mp.job "count" { every = 0.1, run = function(job)
        assert(d:add(("%.3f"):format(job.tick), true), "a tick twice")
        if not d:add("first", job.tick) then d:incr("ticks", 1 + job.missed) end
        d:set("last", job.tick)
      end }
      mp.endpoint { route = "GET /seen", handle = function() return { ticks = d:get "ticks", first = d:get "first", last = d:get "last" } end }]]
    local s = boot(body)
    local function seen(n)
      local r
      return server.until_true(function() return ("ticks were lost, or came twice: %d, %.3f to %.3f"):format(r.ticks or 0, r.first or 0, r.last or 0) end, function()
        r = s:request({ path = "/seen" }):json() -- perhaps between two writes: then once more
        return r.ticks and r.ticks >= n and math.abs((r.last - r.first) / 0.1 - r.ticks) < 0.1 and r
      end)
    end
    local first = seen(2).first
    for v = 2, 6 do
      server.write_file(s.conf_path, configuration(body, v))
      assert.equal(0, cli.run(s, "reload").code)
      assert.equal(first, seen(v + 1).first)
    end
    assert.is_nil(s:log():match "a tick twice")
  end)

  it("is ended with its generation when that is replaced and out of time", function()
    local body = [[mp.job "long" { every = 0.1, run = function() mp.log.info "begun" mp.sleep(3600) end }]]
    local s = boot(body, { env = { MOONPOOL_DEBUG_DRAIN = "0.3" }, allow = { "was replaced and still runs" } })
    local _, at = s:until_line "begun job=long"
    server.write_file(s.conf_path, configuration(body, 2))
    assert.equal(0, cli.run(s, "reload").code)
    s:until_line "generation 1 was replaced and still runs 1 requests: they are ended, for their time is over"
    s:until_line "job 'long' %([^\n]*%): cancelled: [^\n]+"
    s:until_line("begun job=long", at) -- by the new one's
  end)

  it("goes when a reload does not declare it any more", function()
    local s = boot(TICK)
    until_ticks(s, 2)
    server.write_file(s.conf_path, configuration('mp.job "other" { every = 0.1, run = function() mp.log.info "other" end }', 2))
    assert.equal(0, cli.run(s, "reload").code)
    local n = #ticks(s)
    s:until_line "other job=other"
    local _, first = s:until_line("other job=other")
    s:until_line("other job=other", first)
    assert.is_true(#ticks(s) <= n + 1)
    assert.same({ "other" }, (function()
      local names = {}
      for _, j in ipairs(cli.run(s, "status", "--json"):json().jobs) do
        names[#names + 1] = j.name
      end
      return names
    end)())
  end)
end)
