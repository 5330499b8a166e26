-- A plugin of one's own, in the configuration itself: around every endpoint, like an onion. Larger ones live in
-- plugins/<name>/init.lua beside the configuration.
--   moonpool serve examples/plugin.lua
--   curl -si http://127.0.0.1:7171/hello/moon -H 'x-secret: open sesame'
local mp = require "moonpool"

mp.plugin "door" {
  version = "1.0.0",
  api = 1,
  config = { secret = { "string", min = 8 } }, -- what `use` may set, checked when the configuration loads

  -- Before any handler: true, or nil and why not.
  admit = function(conf, req)
    if req.headers["x-secret"] ~= conf.secret then
      return nil, { code = "forbidden", message = "say the word", status = 403 }
    end
    return true
  end,

  -- Around the endpoint: before next() and after it.
  handle = function(_, req, res, next)
    local began = mp.time()
    local result, err = next()
    res:header("x-seconds", ("%.6f"):format(mp.time() - began))
    mp.log.info("answered", { path = req.path, ok = err == nil })
    return result, err
  end,
}

mp.server { use = { { "door", secret = "open sesame" } } }

mp.endpoint {
  route = "GET /hello/{name}",
  handle = function(req)
    return "hello " .. req.params.name .. "\n" -- a string is a text answer
  end,
}
