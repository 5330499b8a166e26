--- spec/support/output.lua: busted's plain output, and a line `pending: REASON` for every pending spec, so that nothing is
--- skipped silently.
return function(options)
  local busted = require "busted"
  local handler = require "busted.outputHandlers.plainTerminal"(options)
  busted.subscribe({ "test", "end" }, function(element, _, status)
    if status == "pending" then
      io.write("pending: ", tostring(element.name), "\n")
    end
    return nil, true
  end)
  return handler
end
