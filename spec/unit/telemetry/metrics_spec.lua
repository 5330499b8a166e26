--- core/telemetry/metrics.c: series, their values under many threads, the text of /metrics and of conf/METRICS.md.
local C, ffi = require "spec.support.ffi"("core/telemetry/metrics.h", "core/base/buf.h")
local prometheus = require "spec.support.prometheus"
local threads = require "spec.support.threads"

local function text(print)
  local b = ffi.new "struct mp_buf"
  print(b)
  local s = b.len > 0 and ffi.string(b.data, b.len) or ""
  C.mp_buf_free(b)
  return s
end

local function metrics()
  return text(C.mp_metrics_print)
end

local function cell(metric, ...)
  local n = select("#", ...)
  local values = ffi.new("const char *[4]")
  local kept = { ... } -- alive during the call
  for i = 1, n do
    values[i - 1] = kept[i]
  end
  return C.mp_metric_cell(ffi.C["MP_METRIC_" .. metric], values)
end

--- Of a metric: its lines.
local function lines(name)
  local out = {}
  for line in metrics():gmatch "[^\n]+" do
    if line:match("^moonpool_" .. name .. "[{ ]") or line:match("^# %u+ moonpool_" .. name .. " ") then
      out[#out + 1] = line
    end
  end
  return out
end

describe("metrics", function()
  it("are one text: HELP, TYPE, then the series in the order of their labels", function()
    C.mp_cell_add(cell("REQUESTS", "b", "POST /chat", "warm", "200"), 2)
    C.mp_cell_add(cell("REQUESTS", "a", "POST /chat", "warm", "200"), 1)
    C.mp_cell_add(cell("REQUESTS", "a", "POST /chat", "cold", "503"), 1)
    C.mp_cell_add(cell("REQUESTS", "b", "POST /chat", "warm", "200"), 0.5)
    assert.same({
      "# HELP moonpool_requests_total Requests answered; start: warm, cold, none",
      "# TYPE moonpool_requests_total counter",
      'moonpool_requests_total{model="a",endpoint="POST /chat",start="cold",status="503"} 1',
      'moonpool_requests_total{model="a",endpoint="POST /chat",start="warm",status="200"} 1',
      'moonpool_requests_total{model="b",endpoint="POST /chat",start="warm",status="200"} 2.5',
    }, lines "requests_total")
    assert.equal(metrics(), metrics())
  end)

  it("without labels are there from the start; those without a series are not mentioned", function()
    assert.same({ "# HELP moonpool_generation Number of the generation that serves", "# TYPE moonpool_generation gauge",
      "moonpool_generation 0" }, lines "generation")
    assert.same({}, lines "job_runs_total")
  end)

  it("find the same cell for the same labels, and take NULL for an empty one", function()
    assert.equal(cell("RELOADS", "ok"), cell("RELOADS", "ok"))
    assert.not_equal(cell("RELOADS", "ok"), cell("RELOADS", "failed"))
    assert.equal(cell("QUEUE_REFUSED", "", "full"), cell("QUEUE_REFUSED", nil, "full"))
  end)

  it("escape what stands in labels, and keep it UTF-8 and short", function()
    C.mp_cell_add(cell("JOB_RUNS", 'a"b\\c\nd', "ok"), 1)
    C.mp_cell_add(cell("JOB_RUNS", "bad \255 byte", "ok"), 1)
    C.mp_cell_add(cell("JOB_RUNS", ("é"):rep(150), "ok"), 1)
    local got = lines "job_runs_total"
    assert.equal([[moonpool_job_runs_total{job="a\"b\\c\nd",result="ok"} 1]], got[3])
    assert.equal('moonpool_job_runs_total{job="bad \239\191\189 byte",result="ok"} 1', got[4])
    assert.equal('moonpool_job_runs_total{job="' .. ("é"):rep(100) .. '",result="ok"} 1', got[5])
    local m = prometheus.read(metrics())
    assert.equal(1, prometheus.value(m, "moonpool_job_runs_total", { job = 'a"b\\c\nd' }))
  end)

  it("never lower a counter, and take no nonsense", function()
    local c, g = cell("ENGINE_STARTS", "cpu"), cell("MODEL_QUEUED", "m")
    C.mp_cell_set(c, 7)
    for _, v in ipairs { -1, 0 / 0, 1 / 0 } do
      C.mp_cell_add(c, v)
      C.mp_cell_set(c, v)
      C.mp_cell_set(g, v == v and v ~= 1 / 0 and v or 3)
    end
    assert.equal(7, C.mp_cell_get(c))
    assert.equal(3, C.mp_cell_get(g))
    C.mp_cell_add(g, -4)
    assert.equal(-1, C.mp_cell_get(g))
    assert.same("moonpool_model_queued{model=\"m\"} -1", lines("model_queued")[3])
  end)

  it("forget a removed model's gauges until they are set again, and no counter", function()
    C.mp_cell_set(cell("MODEL_STATE", "gone", "warm"), 1)
    C.mp_cell_set(cell("MODEL_STATE", "here", "warm"), 1)
    C.mp_cell_add(cell("MODEL_LOADS", "gone", "ok"), 1)
    C.mp_metric_forget(ffi.C.MP_METRIC_MODEL_STATE, "gone")
    C.mp_metric_forget(ffi.C.MP_METRIC_MODEL_LOADS, "gone")
    assert.same('moonpool_model_state{model="here",state="warm"} 1', lines("model_state")[3])
    assert.equal(3, #lines "model_state")
    assert.equal(3, #lines "model_loads_total")
    C.mp_cell_set(cell("MODEL_STATE", "gone", "warm"), 0)
    assert.same('moonpool_model_state{model="gone",state="warm"} 0', lines("model_state")[3])
  end)

  it("lose nothing when many threads count at once", function()
    local c = cell("POLICY_ERRORS", "p", "scale", "late")
    threads.run(8, 20000, "void mp_cell_add(void *, double); mp_cell_add(arg, 1);", c)
    assert.equal(160000, C.mp_cell_get(c))
  end)

  it("make a series once, however many threads ask for it, while others read", function()
    threads.run(8, 300, [[
      void *mp_metric_cell(int, const char *const *); void mp_cell_add(void *, double);
      struct { char *data; size_t len, cap; } b = {0};
      void mp_metrics_print(void *); void mp_buf_free(void *);
      char name[20]; const char *values[] = {name, "asked"};
      snprintf(name, sizeof name, "m%d", i % 50);
      mp_cell_add(mp_metric_cell(]] .. tonumber(ffi.C.MP_METRIC_MODEL_UNLOADS) .. [[, values), 1);
      if (i % 100 == 0) mp_metrics_print(&b);
      mp_buf_free(&b);
    ]])
    local m = prometheus.read(metrics())
    assert.equal(50, #m.moonpool_model_unloads_total.series)
    assert.equal(2400, prometheus.value(m, "moonpool_model_unloads_total"))
    assert.equal(48, prometheus.value(m, "moonpool_model_unloads_total", { model = "m7" }))
  end)

  it("have a bounded number of series: the rest of a counter is `other`, of a gauge not shown", function()
    for i = 1, ffi.C.MP_METRIC_MAX_SETS + 10 do
      C.mp_cell_add(cell("DEVICE_SWAPS", "d" .. i), 1)
      C.mp_cell_set(cell("DEVICE_RESERVED", "d" .. i), 1)
    end
    local m = prometheus.read(metrics())
    assert.equal(10, prometheus.value(m, "moonpool_device_swaps_total", { device = "other" }))
    assert.equal(ffi.C.MP_METRIC_MAX_SETS + 1, #m.moonpool_device_swaps_total.series)
    assert.equal(ffi.C.MP_METRIC_MAX_SETS, #m.moonpool_device_reserved_bytes.series)
  end)
end)

describe("the table of metrics", function()
  local document = text(C.mp_metrics_document)

  it("is documented whole: one row each, with kind, labels and meaning", function()
    local rows = {}
    for name, kind, labels, help in document:gmatch "\n| `moonpool_([%l_]+)` | (%l+) | ([^|]+) | ([^|\n]+) |" do
      assert.is_nil(rows[name])
      rows[name] = true
      rows[#rows + 1] = name
      assert.equal(kind == "counter", name:match "_total$" ~= nil, name)
      assert.is_true(kind == "counter" or kind == "gauge", name)
      assert.is_nil(name:match "^total_" or name:match "_total_" or name:match "_count$" or name:match "_sum$" or name:match "_bucket$")
      assert.is_nil(name:match "_ms$" or name:match "milliseconds" or name:match "megabytes" or name:match "_mb$") -- base units
      assert.is_true(#help > 10, name)
      local n = 0
      for label in labels:gmatch "`([^`]+)`" do
        assert.matches("^%l+$", label)
        assert.is_nil(("|le|quantile|"):find("|" .. label .. "|", 1, true))
        n = n + 1
      end
      assert.is_true(n <= ffi.C.MP_METRIC_MAX_LABELS)
      assert.is_true(n > 0 or labels == "none")
    end
    assert.equal(tonumber(ffi.C.MP_N_METRICS), #rows)
  end)

  it("is what conf/METRICS.md says", function()
    local f = assert(io.open "conf/METRICS.md")
    local kept = f:read "*a"
    f:close()
    assert.equal(document, kept, "make it anew: moonpool check --metrics > conf/METRICS.md")
    local pipe = assert(io.popen(("env -u LD_PRELOAD %s/moonpool check --metrics"):format(os.getenv "MOONPOOL_BUILD" or "build/release")))
    local printed = pipe:read "*a"
    pipe:close()
    assert.equal(kept, printed)
  end)
end)
