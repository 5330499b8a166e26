--- spec/support/prometheus.lua: a strict reader of Prometheus' text format 0.0.4, as far as moonpool writes it: HELP, TYPE, then the series
--- of one metric together. Raises with the line that breaks a rule. The rules of promtool's linter that concern us are rules here too.
---
---   local m = require("spec.support.prometheus").read(text)
---   m["moonpool_requests_total"].kind                      -- "counter"
---   m["moonpool_requests_total"].series                    -- { { labels = { model = "a" }, value = 1 }, … }
---   M.value(m, "moonpool_requests_total", { model = "a" }) -- the sum of the series that have these labels; nil when there is none
local M = {}

local function unescape(s, line)
  return (s:gsub("\\(.?)", function(c)
    return ({ ["\\"] = "\\", ['"'] = '"', n = "\n" })[c] or error("bad escape: " .. line, 0)
  end))
end

local function labels(text, line)
  local out, at, seen = {}, 1, false
  while at <= #text do
    local name, behind = text:match("^([%a_][%w_]*)=()", at)
    assert(name and text:sub(behind, behind) == '"', "bad label: " .. line)
    local stop = behind + 1
    while text:sub(stop, stop) ~= '"' do
      assert(stop <= #text, "a label's value does not end: " .. line)
      stop = stop + (text:sub(stop, stop) == "\\" and 2 or 1)
    end
    assert(out[name] == nil, "a label twice: " .. line)
    assert(not name:match "^__", "a reserved label: " .. line)
    out[name] = unescape(text:sub(behind + 1, stop - 1), line)
    assert(text:sub(stop + 1, stop + 1) == "," or stop == #text, "bad labels: " .. line)
    at, seen = stop + 2, true
  end
  assert(seen and text:sub(-1) ~= ",", "empty labels: " .. line)
  return out
end

--- The closing brace of a label set that begins at `from`: braces inside quotes do not count.
local function close(line, from)
  local quoted, at = false, from
  while at <= #line do
    local c = line:sub(at, at)
    if quoted and c == "\\" then
      at = at + 1
    elseif c == '"' then
      quoted = not quoted
    elseif c == "}" and not quoted then
      return at
    end
    at = at + 1
  end
  error("labels do not end: " .. line, 0)
end

function M.read(text)
  assert(text == "" or text:sub(-1) == "\n", "the last line does not end")
  local all, current, help, seen = {}, nil, nil, {}
  for line in text:gmatch "([^\n]*)\n" do
    if line:match "^# HELP " then
      local name, words = line:match "^# HELP (moonpool_[%l%d_]+) (%S.*)$"
      assert(name and not all[name] and not help, "bad HELP: " .. line)
      help = { name = name, text = words }
    elseif line:match "^# TYPE " then
      local name, kind = line:match "^# TYPE (%S+) (%l+)$"
      assert(help and name == help.name and (kind == "counter" or kind == "gauge"), "bad TYPE: " .. line)
      assert((kind == "counter") == (name:match "_total$" ~= nil), "a counter's name ends in _total, a gauge's does not: " .. line)
      current = { kind = kind, help = help.text, series = {} }
      all[name], current.name, help = current, name, nil
    else
      local name, rest = line:match "^([%a_:][%w_:]*)(.*)$"
      assert(current and not help and name == current.name, "a series of another metric: " .. line)
      local set = {}
      if rest:sub(1, 1) == "{" then
        local stop = close(rest, 2)
        set = labels(rest:sub(2, stop - 1), line)
        rest = rest:sub(stop + 1)
      end
      local number = rest:match "^ ([-+]?[%d.]+[eE]?[-+]?%d*)$"
      assert(number and tonumber(number), "bad number: " .. line)
      local key = line:sub(1, #line - #number)
      assert(not seen[key], "a series twice: " .. line)
      seen[key] = true
      assert(current.kind ~= "counter" or tonumber(number) >= 0, "a counter below 0: " .. line)
      table.insert(current.series, { labels = set, value = tonumber(number) })
    end
  end
  assert(not help, "HELP without TYPE at the end")
  for name, metric in pairs(all) do
    assert(#metric.series > 0, name .. " has no series")
  end
  return all
end

--- The sum over the series of a metric that have these labels; nil when none has.
function M.value(all, name, want)
  local sum
  for _, s in ipairs(all[name] and all[name].series or {}) do
    local ok = true
    for label, value in pairs(want or {}) do
      ok = ok and s.labels[label] == value
    end
    sum = ok and (sum or 0) + s.value or sum
  end
  return sum
end

return M
