--- spec/support/output.lua: busted's plain output, and a line for every pending spec with its reason, so that nothing is skipped
--- silently; ./dev test gathers the same lines in $MOONPOOL_PENDING and shows them before the verdict.
return function(options)
  local busted = require "busted"
  local handler = require "busted.outputHandlers.plainTerminal"(options)
  busted.subscribe({ "pending" }, function(element, _, message)
    local reason = tostring(type(message) == "table" and message.message or message or "no reason given"):gsub("^[^%s]+:%d+: ", "")
    local line = ("pending: %s\t%s\n"):format(handler.getFullName(element), reason)
    io.write("\n", (line:gsub("\t", ": ")))
    local path = os.getenv "MOONPOOL_PENDING"
    local file = path and io.open(path, "a")
    if file then
      file:write(line)
      file:close()
    end
    return nil, true
  end)
  return handler
end
