-- luacheck: no max line length (cases and expected texts stand on one line each)
--- core/script/decl.c, schema.c, locate.c, problems.c: what is wrong with a configuration is said all at once, each with its
--- place and the way out.
local script = require "spec.support.script"
local C = script.C

--- The first line of `source` is line 2: line 1 is `local mp = require "moonpool"`.
local function problem(source, opts)
  return (script.problems(source, opts):gsub("\n$", ""))
end

local M = 'mp.model "m" { source = "tiny.gguf", '
local E = 'mp.endpoint { route = "GET /x", handle = print, '

-- what is written, and the whole message behind "conf/moonpool.lua:"
local exact = {
  -- unknown and unbuilt keys
  { 'mp.model "smollm2" {\n  source = "tiny.gguf",\n  idle_timeout = "5m",\n}', [[4: mp.model "smollm2": unknown key 'idle_timeout'
    4 |   idle_timeout = "5m",
      |   ^^^^^^^^^^^^
did you mean 'scaledown_window' (seconds)?]] },
  { M .. 'contxt = 3 }', [[2: mp.model "m": unknown key 'contxt'
    2 | mp.model "m" { source = "tiny.gguf", contxt = 3 }
      |                                      ^^^^^^
did you mean 'context' (integer)?]] },
  { M .. '["n_ctx"] = 3 }', [[2: mp.model "m": unknown key 'n_ctx'
    2 | mp.model "m" { source = "tiny.gguf", ["n_ctx"] = 3 }
      |                                       ^^^^^^^
did you mean 'context' (integer)?]] },
  { "mp.server { colour = 3 }", [[2: mp.server: unknown key 'colour'
    2 | mp.server { colour = 3 }
      |             ^^^^^^
known: listen, workers, use, limits, policy, metrics]] },
  { "mp.server { limits = { brust = 1 } }", [[2: mp.server: unknown key 'limits.brust'
    2 | mp.server { limits = { brust = 1 } }
      |                        ^^^^^
did you mean 'burst' (seconds)?]] },
  { M .. 'min_replicas = 2 }', [[2: mp.model "m": 'min_replicas' above 1 is not yet built
    2 | mp.model "m" { source = "tiny.gguf", min_replicas = 2 }
      |                                      ^^^^^^^^^^^^]] },
  { M .. 'numerics = "exact" }', [[2: mp.model "m": 'numerics' "exact" is not yet built (what is: "plain")
    2 | mp.model "m" { source = "tiny.gguf", numerics = "exact" }
      |                                      ^^^^^^^^]] },
  { 'mp.server { listen = { { "127.0.0.1:1", tls = {} } } }', [[2: mp.server: 'listen[1].tls' is not yet built
    2 | mp.server { listen = { { "127.0.0.1:1", tls = {} } } }
      |                                         ^^^]] },
  { M .. 'max_replicas = 2 }', [[2: mp.model "m": 'max_replicas' above 1 is not yet built
    2 | mp.model "m" { source = "tiny.gguf", max_replicas = 2 }
      |                                      ^^^^^^^^^^^^]] },
  { 'mp.budget "x" { usd = 1 }', [[2: mp.budget is not yet built
    2 | mp.budget "x" { usd = 1 }]] },
  { 'mp.device "cpu" { usd_per_hour = 2 }', [[2: mp.device "cpu": 'usd_per_hour' is not yet built
    2 | mp.device "cpu" { usd_per_hour = 2 }
      |                   ^^^^^^^^^^^^]] },
  { 'mp.device "cuda:0" { }', [[2: mp.device "cuda:0": a CUDA device is not yet built
    2 | mp.device "cuda:0" { }]] },
  { 'mp.policy "x" { place = print }', [[2: mp.policy "x": 'place' is not yet built
    2 | mp.policy "x" { place = print }
      |                 ^^^^^]] },
  { 'mp.secret "X"', [[2: mp.secret is not yet built
    2 | mp.secret "X"]] },
  { 'mp.plugin "p" { version = "1", api = 1, delta = print }', [[2: mp.plugin "p": 'delta' is not yet built
    2 | mp.plugin "p" { version = "1", api = 1, delta = print }
      |                                         ^^^^^]] },
  -- types, units, ranges
  { M .. 'context = "big" }', [[2: mp.model "m": 'context' must be a whole number, not "big"
    2 | mp.model "m" { source = "tiny.gguf", context = "big" }
      |                                      ^^^^^^^]] },
  { M .. 'context = 2048.5 }', [[2: mp.model "m": 'context' must be a whole number, not 2048.5
    2 | mp.model "m" { source = "tiny.gguf", context = 2048.5 }
      |                                      ^^^^^^^]] },
  { M .. 'max_concurrency = 0 }', [[2: mp.model "m": 'max_concurrency' must be between 1 and 1024, not 0
    2 | mp.model "m" { source = "tiny.gguf", max_concurrency = 0 }
      |                                      ^^^^^^^^^^^^^^^]] },
  { M .. 'sampling = { temperature = 1/0 } }', [[2: mp.model "m": 'sampling.temperature' must be a finite number
    2 | mp.model "m" { source = "tiny.gguf", sampling = { temperature = 1/0 } }
      |                                                   ^^^^^^^^^^^]] },
  { M .. 'sampling = 3 }', [[2: mp.model "m": 'sampling' must be a table, not a number
    2 | mp.model "m" { source = "tiny.gguf", sampling = 3 }
      |                                      ^^^^^^^^]] },
  { M .. 'devices = { "cpu", "cdua" } }', [[2: mp.model "m": 'devices[2]' must be one of "cpu", "cuda", "fake", not "cdua"
    2 | mp.model "m" { source = "tiny.gguf", devices = { "cpu", "cdua" } }
      |                                                         ^^^^^^
did you mean "cuda"?]] },
  { M .. 'devices = {} }', [[2: mp.model "m": 'devices' must not be empty
    2 | mp.model "m" { source = "tiny.gguf", devices = {} }
      |                                      ^^^^^^^]] },
  { M .. 'devices = { a = "cpu" } }', [[2: mp.model "m": 'devices' must be a list: values without keys or holes
    2 | mp.model "m" { source = "tiny.gguf", devices = { a = "cpu" } }
      |                                      ^^^^^^^]] },
  { M .. 'sha256 = "abc" }', [[2: mp.model "m": 'sha256' must be 64 hexadecimal digits
    2 | mp.model "m" { source = "tiny.gguf", sha256 = "abc" }
      |                                      ^^^^^^]] },
  { M .. 'sha256 = ("x"):rep(64) }', [[2: mp.model "m": 'sha256' must be 64 hexadecimal digits
    2 | mp.model "m" { source = "tiny.gguf", sha256 = ("x"):rep(64) }
      |                                      ^^^^^^]] },
  { M .. '3 }', [[2: mp.model "m": '[1]' is a value without a key
    2 | mp.model "m" { source = "tiny.gguf", 3 }
      |                                      ^]] },
  { 'mp.server { limits = { run_memory = "16mb" } }', [[2: mp.server: 'limits.run_memory' must be bytes (a number, or text like "8MiB"), not "16mb"
    2 | mp.server { limits = { run_memory = "16mb" } }
      |                        ^^^^^^^^^^]] },
  { 'mp.server { limits = { run_memory = "16GiB" } }', [[2: mp.server: 'limits.run_memory' must be between 64KiB and 1GiB, not 16GiB
    2 | mp.server { limits = { run_memory = "16GiB" } }
      |                        ^^^^^^^^^^]] },
  { 'mp.server { limits = { burst = "5 minutes" } }', [[2: mp.server: 'limits.burst' must be seconds (a number, or text like "5m"), not "5 minutes"
    2 | mp.server { limits = { burst = "5 minutes" } }
      |                        ^^^^^]] },
  { 'mp.server { limits = { burst = "1m", cpu = "1m" } }', [[2: mp.server: 'limits.burst' must be between 0.001s and 10s, not 60s
    2 | mp.server { limits = { burst = "1m", cpu = "1m" } }
      |                        ^^^^^]] },
  { 'mp.server { limits = { burst = 0.2, cpu = 0.1 } }', [[2: mp.server: 'limits.cpu' is below 'limits.burst': a request may take less in all than at once
    2 | mp.server { limits = { burst = 0.2, cpu = 0.1 } }
      |                                     ^^^]] },
  { 'mp.server { workers = true }', [[2: mp.server: 'workers' must be a whole number, not a boolean
    2 | mp.server { workers = true }
      |             ^^^^^^^]] },
  -- settings that do not go together, schedules
  { M .. 'min_replicas = 1, max_replicas = 0 }', [[2: mp.model "m": 'min_replicas' is above 'max_replicas'
    2 | mp.model "m" { source = "tiny.gguf", min_replicas = 1, max_replicas = 0 }
      |                                      ^^^^^^^^^^^^]] },
  { M .. 'target_concurrency = 8, max_concurrency = 4 }', [[2: mp.model "m": 'target_concurrency' is above 'max_concurrency'
    2 | mp.model "m" { source = "tiny.gguf", target_concurrency = 8, max_concurrency = 4 }
      |                                      ^^^^^^^^^^^^^^^^^^]] },
  { M .. 'queue = { max = -1 } }', [[2: mp.model "m": 'queue.max' must be between 0 and 1000000, not -1
    2 | mp.model "m" { source = "tiny.gguf", queue = { max = -1 } }
      |                                                ^^^]] },
  { M .. 'queue = 64 }', [[2: mp.model "m": 'queue' must be a table, not a number
    2 | mp.model "m" { source = "tiny.gguf", queue = 64 }
      |                                      ^^^^^]] },
  { M .. 'queue = { len = 1 } }', [[2: mp.model "m": unknown key 'queue.len'
    2 | mp.model "m" { source = "tiny.gguf", queue = { len = 1 } }
      |                                                ^^^
known: max, timeout]] },
  { M .. 'scaledown_window = "soon" }', [[2: mp.model "m": 'scaledown_window' must be seconds (a number, or text like "5m"), not "soon"
    2 | mp.model "m" { source = "tiny.gguf", scaledown_window = "soon" }
      |                                      ^^^^^^^^^^^^^^^^]] },
  { M .. 'startup_timeout = 0 }', [[2: mp.model "m": 'startup_timeout' must be between 0.001s and 86400s, not 0s
    2 | mp.model "m" { source = "tiny.gguf", startup_timeout = 0 }
      |                                      ^^^^^^^^^^^^^^^]] },
  { M .. 'preload = 1 }', [[2: mp.model "m": 'preload' must be true or false, not a number
    2 | mp.model "m" { source = "tiny.gguf", preload = 1 }
      |                                      ^^^^^^^]] },
  { M .. '\n  schedules = {\n    { cron = "0 8 * * 8", set = { min_replicas = 1 } },\n  } }',
    [[4: mp.model "m": 'schedules[1].cron' "0 8 * * 8": weekday '8': out of range (0 to 7)
    4 |     { cron = "0 8 * * 8", set = { min_replicas = 1 } },
      |       ^^^^]] },
  { M .. 'schedules = { { cron = "0 8 * *", set = { min_replicas = 1 } } } }',
    [[2: mp.model "m": 'schedules[1].cron' "0 8 * *": five fields are needed (minute, hour, day of month, month, weekday), not 4
    2 | mp.model "m" { source = "tiny.gguf", schedules = { { cron = "0 8 * *", set = { min_replicas = 1 } } } }
      |                                                      ^^^^]] },
  { M .. 'schedules = { { cron = "@daily", tz = "Europe/Berlni", set = { min_replicas = 1 } } } }',
    [[2: mp.model "m": 'schedules[1].tz': there is no time zone 'Europe/Berlni']], open = true },
  { M .. 'schedules = { { cron = "@daily", tz = "../x", set = { min_replicas = 1 } } } }',
    [[2: mp.model "m": 'schedules[1].tz': '../x' is no name of a time zone: names are like "Europe/Berlin"
    2 | mp.model "m" { source = "tiny.gguf", schedules = { { cron = "@daily", tz = "../x", set = { min_replicas = 1 } } } }
      |                                                                       ^^]] },
  { M .. 'schedules = { { cron = "@daily", set = {} } } }', [[2: mp.model "m": 'schedules[1].set' sets nothing
    2 | mp.model "m" { source = "tiny.gguf", schedules = { { cron = "@daily", set = {} } } }
      |                                                                       ^^^]] },
  { M .. 'schedules = { { cron = "@daily", set = { min_replicas = 1, max_replicas = 0 } } } }',
    [[2: mp.model "m": 'schedules[1].set': 'min_replicas' is above 'max_replicas'
    2 | mp.model "m" { source = "tiny.gguf", schedules = { { cron = "@daily", set = { min_replicas = 1, max_replicas = 0 } } } }
      |                                                                       ^^^]] },
  { M .. 'schedules = { { cron = "@daily", set = { source = "x" } } } }',
    [[2: mp.model "m": unknown key 'schedules[1].set.source'
    2 | mp.model "m" { source = "tiny.gguf", schedules = { { cron = "@daily", set = { source = "x" } } } }
      |                                                                               ^^^^^^
known: min_replicas, max_replicas, scaledown_window, startup_timeout, target_concurrency, max_concurrency, queue]] },
  { M .. 'schedules = { { set = { min_replicas = 1 } } } }', [[2: mp.model "m": missing key 'schedules[1].cron'
    2 | mp.model "m" { source = "tiny.gguf", schedules = { { set = { min_replicas = 1 } } } }
      |                                                    ^
it must be a string]] },
  -- devices, policies
  { 'mp.device "gpu" { }', [[2: mp.device "gpu": there is no such device (there is "cpu")
    2 | mp.device "gpu" { }]] },
  { 'mp.device "cpu" { }\nmp.device "cpu" { }', [[3: mp.device "cpu": the name is taken by the device at conf/moonpool.lua:2
    3 | mp.device "cpu" { }]] },
  { 'mp.device "cpu" { memory = "2GB", max_wait = -1 }', [[2: mp.device "cpu": 'max_wait' must not be negative
    2 | mp.device "cpu" { memory = "2GB", max_wait = -1 }
      |                                   ^^^^^^^^]] },
  { 'mp.device "cpu" { memory = 3 }', [[2: mp.device "cpu": 'memory' must be between 1MiB and 8388608GiB, not 3
    2 | mp.device "cpu" { memory = 3 }
      |                   ^^^^^^]] },
  { 'mp.server { policy = "thrifty" }\nmp.policy "thrift" { }', [[2: mp.server: no mp.policy "thrifty" is declared
    2 | mp.server { policy = "thrifty" }
      |             ^^^^^^
did you mean "thrift"?]] },
  { 'mp.server { policy = "thrifty" }', [[2: mp.server: no mp.policy "thrifty" is declared
    2 | mp.server { policy = "thrifty" }
      |             ^^^^^^]] },
  { 'mp.policy "default" { }', [[2: mp.policy "default": the name is that of moonpool's own
    2 | mp.policy "default" { }
give yours another name, and name it in mp.server: policy = "…"]] },
  { 'mp.policy "x" { }\nmp.policy "x" { }', [[3: mp.policy "x": the name is taken by the policy at conf/moonpool.lua:2
    3 | mp.policy "x" { }]] },
  { 'mp.policy "x" { scale = 3 }', [[2: mp.policy "x": 'scale' must be a function, not a number
    2 | mp.policy "x" { scale = 3 }
      |                 ^^^^^]] },
  { 'mp.policy "x" { scael = print }', [[2: mp.policy "x": unknown key 'scael'
    2 | mp.policy "x" { scael = print }
      |                 ^^^^^
did you mean 'scale' (function)?]] },
  { 'mp.server { metrics = "yes" }', [[2: mp.server: 'metrics' must be true or false, not a string
    2 | mp.server { metrics = "yes" }
      |             ^^^^^^^]] },
  -- addresses
  { 'mp.server { listen = "0.0.0.0:80" }', [[2: mp.server: 'listen[1]' goes beyond loopback, which is refused as long as no API keys protect it
    2 | mp.server { listen = "0.0.0.0:80" }
      |             ^^^^^^
keys are not yet built: listen on 127.0.0.1 or [::1], behind a proxy that asks for one]] },
  { 'mp.server { listen = { "127.0.0.1" } }', [[2: mp.server: 'listen[1]' must be an address and a port, like "127.0.0.1:7171", not "127.0.0.1"
    2 | mp.server { listen = { "127.0.0.1" } }
      |                        ^^^^^^^^^^^]] },
  { 'mp.server { listen = { "example.org:80" } }', [[2: mp.server: 'listen[1]' "example.org" is no IP address (IPv6 in brackets: "[::1]:7171")
    2 | mp.server { listen = { "example.org:80" } }
      |                        ^^^^^^^^^^^^^^^^]] },
  { 'mp.server { listen = { "127.0.0.1:99999" } }', [[2: mp.server: 'listen[1]' must be an address and a port, like "127.0.0.1:7171", not "127.0.0.1:99999"
    2 | mp.server { listen = { "127.0.0.1:99999" } }
      |                        ^^^^^^^^^^^^^^^^^]] },
  { 'mp.server { listen = { "[::1]:80", "[::1]:80" } }', [[2: mp.server: 'listen[2]' is the same address as 'listen[1]'
    2 | mp.server { listen = { "[::1]:80", "[::1]:80" } }
      |                                    ^^^^^^^^^^]] },
  -- names
  { 'mp.model "m"', [[2: mp.model "m": the name is not followed by its table: write mp.model "m" { … }
    2 | mp.model "m"]] },
  { 'mp.model { source = "x" }', [[2: mp.model needs a name: write mp.model "name" { … }
    2 | mp.model { source = "x" }]] },
  { 'mp.server "x" { }', [[2: mp.server takes no name: write mp.server { … }
    2 | mp.server "x" { }]] },
  { 'mp.model "m" "n"', [[2: mp.model "m" takes a table, not a string
    2 | mp.model "m" "n"

conf/moonpool.lua:2: mp.model "m": missing key 'source'
    2 | mp.model "m" "n"
it must be a string

2 problems]] },
  { 'mp.endpoint(3)', [[2: mp.endpoint takes a table, not a number
    2 | mp.endpoint(3)]] },
  { 'mp.model "a b" {}', [[2: mp.model: a name has 1 to 128 bytes, without spaces and quotes
    2 | mp.model "a b" {}]] },
  { M .. "}\n" .. M .. "}", [[3: mp.model "m": the name is taken by the model at conf/moonpool.lua:2
    3 | mp.model "m" { source = "tiny.gguf", }]] },
  { M .. 'alias = "x" }\nmp.model "x" { source = "tiny.gguf" }', [[3: mp.model "x": the name is taken by an alias of m at conf/moonpool.lua:2
    3 | mp.model "x" { source = "tiny.gguf" }]] },
  { M .. 'alias = { "x" } }\nmp.model "n" { source = "tiny.gguf", alias = { "y", "x" } }',
    [[3: mp.model "n": alias "x" is taken by an alias of model "m" at conf/moonpool.lua:2
    3 | mp.model "n" { source = "tiny.gguf", alias = { "y", "x" } }
      |                                                     ^^^]] },
  { M .. 'alias = "m" }', [[2: mp.model "m": alias "m" is the model's own name
    2 | mp.model "m" { source = "tiny.gguf", alias = "m" }
      |                                      ^^^^^]] },
  { "mp.server {}\nmp.server {}", [[3: mp.server: there is one already, at conf/moonpool.lua:2
    3 | mp.server {}]] },
  { "mp.serve {}", [[2: mp.serve is unknown: did you mean mp.server?
    2 | mp.serve {}]] },
  -- endpoints
  { 'mp.endpoint { handle = print }', [[2: mp.endpoint: missing key 'route'
    2 | mp.endpoint { handle = print }
it must be a string]] },
  { 'mp.endpoint { route = "/x", handle = print }', [[2: mp.endpoint: 'route' must be a method and a path, like "POST /haiku", not "/x"
    2 | mp.endpoint { route = "/x", handle = print }
      |               ^^^^^]] },
  { 'mp.endpoint { route = "get /x", handle = print }',
    [[2: mp.endpoint: 'route' has the unknown method "get": it is one of GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH
    2 | mp.endpoint { route = "get /x", handle = print }
      |               ^^^^^]] },
  { 'mp.endpoint { route = "GET /a/{b c}", handle = print }', [[2: mp.endpoint: 'route' has the bad parameter "{b c}": write {name}
    2 | mp.endpoint { route = "GET /a/{b c}", handle = print }
      |               ^^^^^]] },
  { 'mp.endpoint { route = "GET /a?b", handle = print }', [[2: mp.endpoint: 'route' has a '?' in "a?b"
    2 | mp.endpoint { route = "GET /a?b", handle = print }
      |               ^^^^^]] },
  { 'mp.endpoint { route = "GET /{a}/{a}", handle = print }', [[2: mp.endpoint: 'route' has the parameter {a} twice
    2 | mp.endpoint { route = "GET /{a}/{a}", handle = print }
      |               ^^^^^]] },
  { 'mp.endpoint { route = "GET /a/{b}", handle = print }\nmp.endpoint { route = "GET /a/{c}", handle = print }',
    [[3: mp.endpoint: the route "GET /a/{c}" is taken by the endpoint at conf/moonpool.lua:2
    3 | mp.endpoint { route = "GET /a/{c}", handle = print }
      |               ^^^^^]] },
  { 'mp.endpoint {\n  route = "GET /x",\n  handle = "print",\n}', [[4: mp.endpoint: 'handle' must be a function, not a string
    4 |   handle = "print",
      |   ^^^^^^]] },
  { E .. 'input = { a = "strng" } }', [[2: mp.endpoint: 'input.a' has the unknown type "strng"
    2 | mp.endpoint { route = "GET /x", handle = print, input = { a = "strng" } }
      |                                                           ^
did you mean "string"?]] },
  { E .. 'input = { a = { "string", mx = 3 } } }', [[2: mp.endpoint: unknown key 'input.a.mx'
    2 | mp.endpoint { route = "GET /x", handle = print, input = { a = { "string", mx = 3 } } }
      |                                                                           ^^
did you mean 'max' (number)?]] },
  { E .. 'input = { a = { enum = { "x" }, default = "y" } } }', [[2: mp.endpoint: 'input.a.default' must be "x", not "y"
    2 | mp.endpoint { route = "GET /x", handle = print, input = { a = { enum = { "x" }, default = "y" } } }
      |                                                                                 ^^^^^^^
did you mean "x"?]] },
  { E .. 'input = { a = { max = 3 } } }', [[2: mp.endpoint: 'input.a' has no type: its first value must be one, like "string"
    2 | mp.endpoint { route = "GET /x", handle = print, input = { a = { max = 3 } } }
      |                                                           ^]] },
  { E .. 'input = { a = { "integer", min = 3, max = 1 } } }', [[2: mp.endpoint: 'input.a' has a min above its max
    2 | mp.endpoint { route = "GET /x", handle = print, input = { a = { "integer", min = 3, max = 1 } } }
      |                                                           ^]] },
  { E .. 'input = { "string" } }', [[2: mp.endpoint: 'input[1]' is a value without a name
    2 | mp.endpoint { route = "GET /x", handle = print, input = { "string" } }
      |                                                           ^^^^^^^^]] },
  -- plugins
  { 'mp.server { use = { "opnai" } }', [[2: mp.server: no plugin "opnai"
    2 | mp.server { use = { "opnai" } }
      |                     ^^^^^^^]], open = true },
  { 'mp.server { use = { 3 } }', [[2: mp.server: 'use[1]' must be a name, or a table that begins with one, like { "ratelimit", x = 1 }, not a number
    2 | mp.server { use = { 3 } }
      |                     ^]] },
  { 'mp.plugin "p" { version = "1", api = 1, config = { n = "integer" } }\nmp.server { use = { { "p", n = "x", m = 1 } } }',
    [[3: mp.server: 'use[1].n' must be a whole number, not "x"
    3 | mp.server { use = { { "p", n = "x", m = 1 } } }
      |                            ^

conf/moonpool.lua:3: mp.server: unknown key 'use[1].m'
    3 | mp.server { use = { { "p", n = "x", m = 1 } } }
      |                                     ^
did you mean 'n' (integer)?

2 problems]] },
  { 'mp.plugin "p" { version = "1", api = 2 }', [[2: mp.plugin "p": 'api' must be between 1 and 1, not 2
    2 | mp.plugin "p" { version = "1", api = 2 }
      |                                ^^^]] },
  { 'mp.plugin "p" { version = "1", api = 1, routes = { { route = "GET /a", handle = print } } }\n'
    .. 'mp.endpoint { route = "GET /x", use = { "p" }, handle = print }', [[3: mp.endpoint: 'use[1]': plugin "p" brings routes: use it in mp.server
    3 | mp.endpoint { route = "GET /x", use = { "p" }, handle = print }
      |                                         ^^^]], open = true },
  -- the source itself
  { "local x = = 1", [[2: unexpected symbol near '='
    2 | local x = = 1]] },
  { 'error "no luck today"', [[2: no luck today
    2 | error "no luck today"]] },
  { "x = 1", [[2: global 'x' is read only here: use local
    2 | x = 1]] },
  { 'require "foo.bar"', [[2: module 'foo.bar' not found
    2 | require "foo.bar"]] },
}

local jobs = {
  { 'mp.job "j" { every = 1 }', [[2: mp.job "j": missing key 'run']] },
  { 'mp.job "j" { run = print }', [[2: mp.job "j": missing key 'cron' or 'every']] },
  { 'mp.job "j" { run = print, cron = "@daily", every = 5 }', [[2: mp.job "j": 'cron' and 'every' exclude each other]] },
  { 'mp.job "j" { run = print, every = 5, tz = "UTC" }', [[2: mp.job "j": 'tz' belongs to 'cron': 'every' has no time of day]] },
  { 'mp.job "j" { run = print, every = 5, jitter = 6 }', [[2: mp.job "j": 'jitter' is above 'every']] },
  { 'mp.job "j" { run = print, every = 0.01 }', [[2: mp.job "j": 'every' must be between 0.1s and 31622400s, not 0.01s]] },
  { 'mp.job "j" { run = print, cron = "61 * * * *" }', [[2: mp.job "j": 'cron' "61 * * * *": minute '61': out of range (0 to 59)]] },
  { 'mp.job "j" { run = print, cron = "@daily", tz = "Moon" }', [[2: mp.job "j": 'tz': there is no time zone 'Moon' in]] },
  { 'mp.job "j" { run = print, every = 5, overlap = "skp" }', [[2: mp.job "j": 'overlap' must be one of "skip", "queue", "allow", not "skp"]] },
  { 'mp.job "j" { run = print, every = 5, per = "thread" }', [[2: mp.job "j": 'per' must be one of "node", "worker", not "thread"]] },
  { 'mp.job "j" { run = print, every = 5 } mp.job "j" { run = print, every = 5 }', [[2: mp.job "j": the name is taken by the job at]] },
  { 'for i = 1, 1001 do mp.job("j" .. i) { run = print, every = 5 } end', [[2: mp.job "j1001": one job too many: there may be 1000]] },
}

describe("a wrong configuration", function()
  for i, case in ipairs(exact) do
    it("is explained: " .. i .. " " .. case[1]:sub(1, 60):gsub("\n", " "), function()
      local got = problem(case[1])
      if case.open then -- the hint differs with what is installed
        assert.equal("conf/moonpool.lua:" .. case[2], got:sub(1, #case[2] + 18))
      else
        assert.equal("conf/moonpool.lua:" .. case[2], got)
      end
    end)
  end

  it("says all that is wrong, in order", function()
    local text = problem [[
mp.server { workers = 0, colour = 1 }
mp.model "a" { source = "none.gguf", contxt = 1 }
mp.model "b"
mp.endpoint { route = "POST /x", handle = 1 }
error "and more"]]
    local lines = {}
    for line in text:gmatch "conf/moonpool.lua:(%d+): " do
      lines[#lines + 1] = line
    end
    assert.same({ "2", "2", "3", "3", "4", "5", "6" }, lines)
    assert.matches("\n7 problems$", text)
  end)

  it("names where it looked for a model's file", function()
    local text = problem 'mp.model "m" { source = "nope.gguf" }'
    assert.matches('^conf/moonpool.lua:2: mp.model "m": no file for \'source\' "nope.gguf"\n', text)
    assert.matches("looked for .*conf/nope.gguf, .*models/nope.gguf", text)
    assert.matches('source" /nope/x.gguf', (problem 'mp.model "m" { source = "/nope/x.gguf" }'):gsub("no file for 'source' ", 'source" '):gsub('"(/nope/x.gguf)"', "%1"))
  end)

  it("points into modules and plugins too", function()
    local files = { ["conf/lib/models.lua"] = 'local mp = require "moonpool"\nreturn mp.model "m" {\n  source = "tiny.gguf",\n  ctx = 3,\n}',
      ["conf/plugins/p/init.lua"] = 'local mp = require "moonpool"\nreturn mp.plugin "p" {\n  version = "1", api = 1,\n  routes = { { route = "GET /a",\n'
        .. '    handel = print } },\n}', ["conf/plugins/q/init.lua"] = "return 1", ["conf/plugins/r/init.lua"] = "local x = nil; x()",
      ["conf/plugins/s/init.lua"] = 'local mp = require "moonpool" mp.server {} mp.plugin "s" { version = "1", api = 1 }' }
    local text = problem('require "lib.models"\nmp.server { use = { "p", "q", "r", "s" } }', { files = files })
    assert.matches("conf/lib/models.lua:4: mp.model \"m\": unknown key 'ctx'\n    4 |   ctx = 3,\n      |   ^^^\ndid you mean 'context'", text, nil, true)
    assert.matches("conf/plugins/p/init.lua:5: mp.plugin \"p\": unknown key 'routes[1].handel'\n    5 |     handel = print } },\n      |     ^^^^^^\n", text, nil, true)
    assert.matches("conf/plugins/p/init.lua:4: mp.plugin \"p\": missing key 'routes[1].handle'", text, nil, true)
    assert.matches('conf/moonpool.lua:3: mp.server: conf/plugins/q/init.lua does not declare mp.plugin "q"', text, nil, true)
    assert.matches("conf/plugins/r/init.lua:1: attempt to call local 'x' (a nil value)", text, nil, true)
    assert.matches("conf/plugins/s/init.lua:1: mp.server: the file of a plugin declares only mp.plugin", text, nil, true)
  end)

  it("is stopped when it does not end", function()
    assert.equal("conf/moonpool.lua:2: ran too long and was stopped\n    2 | while true do end", problem "while true do end")
  end)

  it("is refused when its runs do not agree", function()
    assert.equal("conf/moonpool.lua: two runs declared different things\n"
      .. "it runs once per worker: what it declares must not depend on time, chance or a first run",
      problem "mp.endpoint { route = 'GET /' .. mp.uuid(), handle = print }")
  end)

  it("is found to the column past tabs, comments, strings and functions", function()
    local text = problem('--[[ { contxt ]] mp.model "m" {\n\tsource = "tiny.gguf", --contxt = 1\n\talias = { "contxt = 2", [[}]] },\n'
      .. "\t-- { \n\tsampling = { seed = #\"}\" }, é = 1,\n}")
    assert.matches("conf/moonpool.lua:6: mp.model \"m\": unknown key 'é'\n    6 | \tsampling = { seed = #\"}\" }, é = 1,\n      | \t                            ^\n", text, nil, true)
    text = problem "mp.endpoint { handle = function() if x then return { a = 1 } end return 1, 2 end, route = 3 }"
    assert.matches("\n      | " .. (" "):rep(82) .. "^^^^^", text, nil, true)
    text = problem 'for i = 1, 1 do mp.model "m" { source = "tiny.gguf", context = i } end'
    assert.matches("'context' must be between 16 and 16777216, not 1\n", text)
    text = problem 'local t = { source = "tiny.gguf", contxt = 1 }\nmp.model "m" (t)'
    assert.matches("^conf/moonpool.lua:3: mp.model \"m\": unknown key 'contxt'\n    3 | mp.model \"m\" %(t%)\ndid you mean", text)
  end)
end)

describe("a right configuration", function()
  local function config(source, opts)
    local g, text = script.build(source, opts)
    assert(g, text)
    local c = script.C.mp_generation_config(g)
    return g, c
  end

  it("is frozen as plain data", function()
    local g, c = config [[mp.server { listen = { "127.0.0.1:0", "[::1]:8080", "localhost:1" }, workers = 3,
        limits = { burst = "20ms", cpu = "1s", run_memory = "8MiB", json_values = 5, body = "1MiB" } }
      mp.model "a" { source = "tiny.gguf", sha256 = ("AB"):rep(32), devices = { "cuda", "cpu" }, context = 2048, alias = { "b", "c" },
        sampling = { temperature = 0, max_tokens = 5 }, min_replicas = 1, max_concurrency = 2 }
      mp.endpoint { route = "POST /x/{id}", max_body = "2KiB", input = { a = "string" }, handle = print }]]
    assert.equal(3, c.server.n_listen)
    assert.equal("::1", script.ffi.string(c.server.listen[1].host))
    assert.equal(8080, c.server.listen[1].port)
    assert.equal("127.0.0.1", script.ffi.string(c.server.listen[2].host))
    assert.is_true(c.server.listen[2].loopback)
    assert.equal(3, c.server.workers)
    assert.near(0.02, c.server.limits.burst, 1e-12)
    assert.equal(8 * 2 ^ 20, tonumber(c.server.limits.run_memory))
    assert.equal(5, c.server.limits.json_values)
    local m = script.C.mp_config_model(c, "c")
    assert.equal("a", script.ffi.string(m.name))
    assert.is_true(script.C.mp_config_model(c, "d") == nil)
    assert.equal(("ab"):rep(32), script.ffi.string(m.sha256))
    assert.equal("cuda", script.ffi.string(m.devices[0]))
    assert.equal(0, m.sampling.temperature)
    assert.equal(5, tonumber(m.sampling.max_tokens))
    assert.equal(-1, tonumber(m.sampling.seed))
    assert.is_true(m.sampling.top_p ~= m.sampling.top_p)
    assert.matches('^{"source":"/.*tiny.gguf","sha256":"' .. ("ab"):rep(32)
      .. '","context":2048,"numerics":"plain","max_concurrency":2,"devices":%["cuda","cpu"%]}$', script.ffi.string(m.spec_json))
    local e = c.endpoints[0]
    assert.equal("POST", script.ffi.string(e.method))
    assert.equal("/x/{id}", script.ffi.string(e.pattern))
    assert.equal(2048, tonumber(e.body))
    assert.is_true(e.input ~= nil)
    assert.equal("conf/moonpool.lua:6", (script.ffi.string(e.where):match "conf/.*"))
    local data = script.json.decode(script.ffi.string(c.json))
    assert.equal("a", data.models[1].name)
    assert.equal("built in", data.endpoints[1].handle["function"])
    assert.equal("string", data.endpoints[1].input.a)
    script.C.mp_generation_free(g)
  end)

  it("has settings, schedules, devices and a policy", function()
    local g, c = config [[mp.server { policy = "mine", metrics = true }
      mp.device "cpu" { memory = "2GiB", max_wait = 6, min_residency = "2s" }
      mp.policy "other" { rank = print }
      mp.policy "mine" { scale = print, evict = print }
      mp.model "a" { source = "tiny.gguf", min_replicas = 1, scaledown_window = "1m", startup_timeout = 9, max_concurrency = 4,
        queue = { max = 7 }, preload = true, schedules = {
          { cron = "0 8 * * 1-5", tz = "Europe/Berlin", set = { min_replicas = 1, queue = { timeout = "5s" } } },
          { cron = "@daily", tz = "Europe/Berlin", set = { max_replicas = 0 } }, { cron = "@hourly", set = { target_concurrency = 2 } } } }
      mp.model "b" { source = "tiny.gguf" }]]
    assert.equal("mine", script.ffi.string(c.server.policy))
    assert.is_true(c.server.metrics)
    assert.equal(1, c.n_devices)
    assert.same({ "cpu", 2 ^ 31, 6, 2 }, { script.ffi.string(c.devices[0].name), tonumber(c.devices[0].memory), c.devices[0].max_wait,
      c.devices[0].min_residency })
    assert.same({ "mine", 2 ^ C.MP_POLICY_SCALE + 2 ^ C.MP_POLICY_EVICT },
      { script.ffi.string(c.policies[1].name), c.policies[1].slots })
    local a = c.models[0]
    local s = a.settings
    assert.same({ 1, 1, 60, 9, 4, 4, 7, 30 }, { s.min_replicas, s.max_replicas, s.scaledown_window, s.startup_timeout, s.target_concurrency,
      s.max_concurrency, s.queue_max, s.queue_timeout })
    assert.is_true(a.preload)
    assert.equal(3, a.n_schedules)
    assert.equal(1, c.n_zones) -- one for both
    assert.equal("0 8 * * 1-5 Europe/Berlin", script.ffi.string(a.schedules[0].text))
    assert.equal("@hourly", script.ffi.string(a.schedules[2].text))
    assert.is_true(a.schedules[0].tz == a.schedules[1].tz)
    assert.is_true(a.schedules[2].tz == nil)
    local o = a.schedules[0].override
    assert.equal(2 ^ C.MP_SET_min_replicas_BIT + 2 ^ C.MP_SET_queue_timeout_BIT, o.set)
    assert.same({ 1, 5 }, { o.value.min_replicas, o.value.queue_timeout })
    local data = script.json.decode(script.ffi.string(c.json))
    assert.equal(4, data.models[1].target_concurrency) -- what was not written stands there too
    assert.same({ max = 7, timeout = 30 }, data.models[1].queue)
    assert.same({ max = 64, timeout = 30 }, data.models[2].queue)
    assert.equal(8, data.models[2].target_concurrency)
    assert.equal("Europe/Berlin", data.models[1].schedules[1].tz)
    assert.equal(6, data.devices[1].max_wait)
    assert.equal("built in", data.policies[2].scale["function"])
    assert.equal("mine", data.server.policy)
    script.C.mp_generation_free(g)
  end)

  it("may name the default policy", function()
    local g, c = config 'mp.server { policy = "default" }'
    assert.is_true(c.server.policy == nil)
    script.C.mp_generation_free(g)
  end)

  it("has defaults", function()
    local g, c = config ""
    assert.equal("127.0.0.1:7171", script.ffi.string(c.server.listen[0].text))
    assert.near(0.01, c.server.limits.burst, 1e-12)
    assert.near(0.1, c.server.limits.cpu, 1e-12)
    assert.equal(16 * 2 ^ 20, tonumber(c.server.limits.run_memory))
    assert.equal(8 * 2 ^ 20, tonumber(c.server.limits.body))
    assert.equal(0, c.n_models + c.n_endpoints + c.n_plugins)
    script.C.mp_generation_free(g)
  end)

  it("may read files and the environment", function()
    local g = config([[assert(mp.read_file "motd.txt" == "hello") local no, err = mp.read_file "none.txt"
      assert(no == nil and err.code == "not_found" and tostring(err):match "cannot open .*none.txt: no such file")
      assert(type(mp.env "PATH") == "string")]], { files = { ["conf/motd.txt"] = "hello" } })
    script.C.mp_generation_free(g)
  end)
end)

describe("units", function()
  local function parse(fn, text)
    local out = script.ffi.new "double[1]"
    return fn(text, out) and out[0] or nil
  end

  it("of time", function()
    for text, seconds in pairs { ["5m"] = 300, ["1h30m"] = 5400, ["250ms"] = 0.25, ["10"] = 10, ["0.5s"] = 0.5, ["2d"] = 172800, ["90 s"] = 90,
      ["1us"] = 1e-6 } do
      assert.near(seconds, parse(script.C.mp_parse_seconds, text), 1e-9)
    end
    for _, text in ipairs { "", "m", "5x", "5 m x", "-5", "1e3", "0x10", "5m3", "1.2.3s", "inf", "nan", " 5" } do
      assert.is_nil(parse(script.C.mp_parse_seconds, text), text)
    end
  end)

  it("of memory", function()
    for text, bytes in pairs { ["8MiB"] = 8 * 2 ^ 20, ["64KB"] = 64000, ["512"] = 512, ["1.5GiB"] = 1.5 * 2 ^ 30, ["0B"] = 0, ["2 TiB"] = 2 ^ 41 } do
      assert.equal(bytes, parse(script.C.mp_parse_bytes, text))
    end
    for _, text in ipairs { "8mib", "8M", "1.5B", "0.3KiB", "1KiB1KiB", "-1", "99999999TiB" } do
      assert.is_nil(parse(script.C.mp_parse_bytes, text), text)
    end
  end)
end)

describe("the settings of a model", function()
  it("have the ranges and defaults that core/pool gives them", function()
    local f = assert(io.open "core/pool/settings.h")
    local header = f:read "*a"
    f:close()
    local function field(schema, key)
      for i = 0, schema.n - 1 do
        if script.ffi.string(schema.fields[i].key) == key then
          return schema.fields[i]
        end
      end
      error("no key " .. key)
    end
    local n = 0
    for key, def, least, most in header:gmatch 'X%([%w_]+, "([%w_.]+)", [%w_]+, ([%d.]+), ([%d.]+), ([%d.]+)%)' do
      n = n + 1
      for _, schema in ipairs { C.mp_keys_model, C.mp_keys_settings } do
        local at = key:match "^queue%.(.*)"
        local found = field(at and field(schema, "queue").fields or schema, at or key)
        assert.same({ key, least + 0, most + 0 }, { key, found.min, found.max })
        if schema == C.mp_keys_model and key ~= "target_concurrency" then
          assert.same({ key, def }, { key, script.ffi.string(found.preset) })
        else
          assert.is_true(found.preset == nil)
        end
      end
    end
    assert.equal(C.MP_N_POOL_SETTINGS, n)
  end)
end)

describe("the page of keys", function()
  it("in conf/KEYS.md is what the tables say", function()
    local b = script.ffi.new "struct mp_buf"
    script.C.mp_keys_document(b)
    local text = script.text(b)
    local f = assert(io.open "conf/KEYS.md")
    local page = f:read "*a"
    f:close()
    assert.is_truthy(page:find(text, 1, true), "run `moonpool check --keys` and put what it prints into conf/KEYS.md")
  end)
end)

describe("mp.job", function()
  for _, case in ipairs(jobs) do
    it("says what is wrong with " .. case[1], function()
      assert.matches(case[2], script.problems(case[1]), nil, true)
    end)
  end

  it("is declared with cron and a zone, or with seconds", function()
    local g = assert(script.build [[mp.job "a" { run = print, cron = "0 6 * * 1-5", tz = "UTC", timeout = 60, overlap = "queue" }
      mp.job "b" { run = print, every = "1m", jitter = 5, per = "worker" }]])
    local c = script.C.mp_generation_config(g)
    assert.equal(2, c.n_jobs)
    assert.equal("cron 0 6 * * 1-5 UTC", script.ffi.string(c.jobs[0].what))
    assert.equal("every 60", script.ffi.string(c.jobs[1].what))
    assert.same({ 60, 5, true, 60, 1 }, { c.jobs[1].every, c.jobs[1].jitter, c.jobs[1].per_worker, c.jobs[0].timeout, tonumber(c.jobs[0].overlap) })
    script.C.mp_generation_free(g)
  end)
end)
