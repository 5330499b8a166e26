--- spec/support/house.lua: the rules of DESIGN §1 and PRINCIPLES that a machine can hold. `check(tree)` takes path -> text
--- and returns a list of what is wrong; `read()` makes that tree from the checkout. spec/unit/layers_spec.lua calls both.
local house = {}

--- Who may include whom: a folder may include those named here, what those may include, itself, and core/base. Because
--- "what those may include" is in it, a tree whose every include is allowed is right transitively too.
house.layers = {
  ["core/base"] = {},
  ["core/wire"] = {},
  ["core/vm"] = {},
  ["core/net"] = {},
  ["core/ledger"] = {},
  ["core/telemetry"] = {},
  ["core/pool"] = { "core/wire", "core/ledger", "core/telemetry" },
  ["core/script"] = { "core/vm", "core/net", "core/pool", "core/telemetry", "core/ledger" },
  ["core/gateway"] = { "core/script" },
  ["core/model"] = { "core/vm", "gpu" },
  ["core/engine"] = { "core/model", "core/wire", "gpu" },
  ["core/cli"] = { "core/gateway", "core/engine" },
  ["gpu"] = {},
  ["gpu/lower"] = { "gpu" },
  ["gpu/fake"] = { "gpu/lower" },
  ["gpu/cpu"] = { "gpu/lower" },
  ["gpu/cuda"] = { "gpu/lower" },
}

--- Calls that principle 13 rules out, and what to use.
local banned = {
  strcpy = "mp_buf", strcat = "mp_buf", sprintf = "snprintf", vsprintf = "vsnprintf", gets = "fgets", alloca = "mp_alloc",
  system = "posix_spawn", popen = "posix_spawn", tmpnam = "mkstemp", strtok = "strcspn",
}
--- What blocks, where a loop runs.
local blocking = { sleep = true, usleep = true, nanosleep = true, getaddrinfo = true, gethostbyname = true }
local loops = { ["core/net"] = true, ["core/pool"] = true, ["core/script"] = true, ["core/gateway"] = true }

local MAX_LINES = 1100

local function folder_of(path)
  return path:match "^(.*)/[^/]*$" or "."
end

--- Blanks C comments, strings and characters, keeping lines.
function house.code_only(text)
  local out, i = {}, 1
  while i <= #text do
    local at, stop, found = text:find('(/[/*])', i)
    local quote_at, _, quote = text:find("([\"'])", i)
    if quote_at and (not at or quote_at < at) then
      out[#out + 1] = text:sub(i, quote_at)
      local j = quote_at + 1
      while j <= #text and text:sub(j, j) ~= quote do
        j = j + (text:sub(j, j) == "\\" and 2 or 1)
      end
      out[#out + 1] = quote
      i = j + 1
    elseif at then
      out[#out + 1] = text:sub(i, at - 1)
      local _, close = text:find(found == "//" and "[^\n]*" or "%*/", stop + 1)
      close = close or #text
      out[#out + 1] = text:sub(at, close):gsub("[^\n]", " ")
      i = close + 1
    else
      out[#out + 1] = text:sub(i)
      break
    end
  end
  return table.concat(out)
end

local function closure(layers, folder, into)
  into = into or {}
  for _, below in ipairs(layers[folder]) do
    if not into[below] then
      into[below] = true
      closure(layers, below, into)
    end
  end
  return into
end

--- One circle of includes as a text, or nil. `edges`: path -> list of paths.
local function circle(edges)
  local state, path = {}, {}
  local function visit(node)
    state[node] = "open"
    path[#path + 1] = node
    for _, target in ipairs(edges[node] or {}) do
      if state[target] == "open" then
        local from = 1
        while path[from] ~= target do
          from = from + 1
        end
        return table.concat(path, " -> ", from) .. " -> " .. target
      elseif not state[target] then
        local found = visit(target)
        if found then
          return found
        end
      end
    end
    path[#path] = nil
    state[node] = "done"
  end
  local nodes = {}
  for node in pairs(edges) do
    nodes[#nodes + 1] = node
  end
  table.sort(nodes)
  for _, node in ipairs(nodes) do
    local found = not state[node] and visit(node)
    if found then
      return found
    end
  end
end

local function check_include(tree, layers, path, line_number, target, problem)
  local from, to = folder_of(path), folder_of(target)
  if not tree[target] then
    return problem(path, line_number, "includes \"%s\", which is not there (includes are written from the root)", target)
  end
  if from:match "^spec" or from == to or to == "core/base" then
    return
  end
  if layers[from] and not closure(layers, from)[to] then
    problem(path, line_number, "%s may not include %s (%s)", from, to, target)
  end
end

local function check_c(tree, layers, path, text, edges, problem)
  local folder = folder_of(path)
  if not folder:match "^spec" and not layers[folder] then
    problem(path, 1, "folder %s has no place in the layers", folder)
  end
  if not text:match "^%s*/[/*]" then
    problem(path, 1, "does not start with what it is for and who calls it")
  end
  edges[path] = {}
  local number = 0
  local code = house.code_only(text)
  local lines = {}
  for line in (code .. "\n"):gmatch "([^\n]*)\n" do
    lines[#lines + 1] = line
  end
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do
    number = number + 1
    local target = lines[number]:match '^%s*#%s*include%s*"' and line:match '#%s*include%s*"([^"]*)"'
    if target then
      table.insert(edges[path], target)
      check_include(tree, layers, path, number, target, problem)
    elseif line:match "^%s*#%s*include%s*<core/" or line:match "^%s*#%s*include%s*<gpu/" then
      problem(path, number, "includes its own tree with <>")
    end
    for name in lines[number]:gmatch "%f[%w_]([%a_][%w_]*)%s*%(" do
      if banned[name] then
        problem(path, number, "%s() is not used here: %s", name, banned[name])
      elseif blocking[name] and loops[folder] then
        problem(path, number, "%s() blocks a loop", name)
      end
    end
  end
  if number - 1 > MAX_LINES then
    problem(path, number - 1, "is longer than about 1,000 lines: which noun is the second one?")
  end
end

--- Folders that mirror or feed others need no page of their own.
local function needs_readme(folder)
  return not (folder == "." or folder:match "^%." or folder:match "^spec/unit/" or folder:match "^spec/support/."
    or folder:match "^spec/fixtures/." or folder:match "^spec/fuzz/.")
end

---@param tree table<string, string>    path from the root -> text
---@return string[]                     "path:line: what", sorted
function house.check(tree, layers)
  layers = layers or house.layers
  local problems, edges, folders = {}, {}, {}
  local function problem(path, line, format, ...)
    problems[#problems + 1] = ("%s:%d: %s"):format(path, line, format:format(...))
  end
  for path, text in pairs(tree) do
    folders[folder_of(path)] = true
    if path:match "%.[ch]$" or path:match "%.cu$" or path:match "%.inc$" then
      check_c(tree, layers, path, text, edges, problem)
    end
  end
  for folder in pairs(folders) do
    local readme = tree[folder .. "/README.md"]
    if needs_readme(folder) and not readme then
      problem(folder .. "/README.md", 1, "is missing: what lives here, what may include what, where to add the next one")
    elseif readme and folder ~= "." and select(2, readme:gsub("\n", "")) > 60 then
      problem(folder .. "/README.md", 61, "is longer than a screen")
    end
  end
  local found = circle(edges)
  if found then
    problems[#problems + 1] = "circle of includes: " .. found
  end
  table.sort(problems)
  return problems
end

--- The checkout, without what git ignores.
function house.read()
  local tree = {}
  local pipe = assert(io.popen "find core gpu lua plugins conf examples spec -type f 2>/dev/null")
  for path in pipe:lines() do
    local file = assert(io.open(path, "rb"))
    tree[path] = path:match "%.[%a]+$" and file:read "*a" or ""
    file:close()
  end
  pipe:close()
  return tree
end

return house
