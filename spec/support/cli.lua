--- spec/support/cli.lua: commands of the binary, as a person or a script types them, at a server of spec.support.server.
---
---   local cli = require "spec.support.cli"
---   local r = cli.run(s, "models", "load", "smol", "--wait")   -- { code, out, err }; --runtime is added
---   r:json()
---   local f = cli.start(s, "decisions", "--follow")            -- in the background; f:until_line "…", f:stop()
---   cli.run({ dir = … }, …), cli.run(nil, …)                   -- without --runtime
local server = require "spec.support.server"
local json = require "spec.support.json"
local ffi = require "ffi"

local M = {}
local Result = {}
Result.__index = Result
local Running = {}
Running.__index = Running

local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "*a"
  f:close()
  return text
end

local function quote(s)
  return "'" .. s:gsub("'", "'\\''") .. "'"
end

local function words(s, ...)
  local out = { ... }
  if s then
    out[#out + 1], out[#out + 2] = "--runtime", s.dir .. "/run"
  end
  return out
end

--- Runs to the end, but not longer than `server.PATIENCE`.
function M.run(s, ...)
  local base = os.tmpname()
  local command = { ("env -u LD_PRELOAD timeout %d"):format(server.PATIENCE), quote(server.binary) }
  for _, w in ipairs(words(s, ...)) do
    command[#command + 1] = quote(w)
  end
  os.execute(("%s >%s.out 2>%s.err </dev/null; echo $? >%s"):format(table.concat(command, " "), base, base, base))
  local result = setmetatable({ code = tonumber(read(base)), out = read(base .. ".out"), err = read(base .. ".err") }, Result)
  os.execute(("rm -f %s %s.out %s.err"):format(base, base, base))
  assert(not result.err:match "Sanitizer" and not result.err:match "runtime error:", result.err)
  return result
end

function Result:json()
  return json.decode(self.out)
end

--- A row of a printed table: the line that begins with `first`, as its words; nil when there is none.
function Result:row(first)
  for line in self.out:gmatch "[^\n]+" do
    local cells = {}
    for cell in line:gsub("  +", "\t"):gmatch "[^\t]+" do
      cells[#cells + 1] = cell
    end
    if cells[1] == first then
      return cells
    end
  end
end

function M.start(s, ...)
  local self = setmetatable({ log = os.tmpname() }, Running)
  self.pid = server.spawn({ server.binary, unpack(words(s, ...)) }, self.log)
  return self
end

function Running:text()
  return read(self.log)
end

function Running:until_line(pattern)
  return server.until_true(function() return ("no line '%s' in:\n%s"):format(pattern, self:text()) end, function()
    return self:text():match(pattern)
  end)
end

--- Its exit code once it ended; by then everything it printed is in text().
function Running:wait()
  local status = ffi.new "int[1]"
  server.until_true(function() return "the command does not end; it printed:\n" .. self:text() end, function()
    return ffi.C.waitpid(self.pid, status, 1) == self.pid
  end)
  self.pid = nil
  return status[0] % 128 == 0 and math.floor(status[0] / 256) % 256 or nil, status[0] % 128
end

function Running:stop()
  if self.pid then
    ffi.C.kill(self.pid, 9)
    self:wait()
  end
  os.remove(self.log)
end

return M
