---@meta moonpool
-- luacheck: ignore 212 241 (declarations: nothing here does anything)
--- The whole API that scripts see, for people and for editors (LuaLS). Never loaded by a server.
---
--- Rules that hold everywhere. Named things are `mp.kind "name" {…}`, unnamed ones `mp.kind {…}`. Numbers are seconds and bytes; strings
--- like "5m" and "8MiB" are accepted where a number with that unit is. What can fail returns `nil, err`; a handler may return that or
--- `assert` it, and the client gets `err.status`. Misuse raises, naming the function and when it may be used. "Waits" means: other
--- requests run meanwhile; it works in a handler, also inside pcall and coroutines of its own, not inside table.sort, string.gsub's
--- callbacks and the bodies of required modules.
---
--- A handler has 10 ms of CPU time between two waits, 100 ms in all and 16 MiB (mp.server's `limits`); past them it is stopped and the
--- client gets 500 with code "cpu_limit" or "memory_limit" (all of it: lua/moonpool/README.md). It may log 100 lines, then 10 a second.
--- Variables outside of functions belong to one worker: there are several.
---
--- Of Lua's own library there is: the base functions without dofile, loadfile, getfenv, setfenv, newproxy, collectgarbage; string, table,
--- math, bit, coroutine; os.time, os.date, os.clock, os.difftime; require, from the configuration's folder. `print` goes to the log.

---@class moonpool
---@field null lightuserdata JSON's null
---@field models table<string, moonpool.Model> the declared models by name; indexing by an alias works too; nil when unknown
local mp = {}

---@alias moonpool.Seconds number | string  # 300, "5m", "1h30m", "250ms"
---@alias moonpool.Bytes number | string    # 8388608, "8MiB", "64KB"
---@alias moonpool.Use (string | table)[]   # { "auth", { "ratelimit", per_minute = 60 } }

--------------------------------------------------------------------------------------------------------------------------------------
-- While the configuration loads
--------------------------------------------------------------------------------------------------------------------------------------

---@class moonpool.Limits
---@field burst? moonpool.Seconds CPU time between two waits; default 0.010
---@field cpu? moonpool.Seconds CPU time of a request's Lua in all; default 0.100
---@field run_memory? moonpool.Bytes what a request's Lua may hold; default "16MiB"
---@field vm_memory? moonpool.Bytes what a worker's Lua may hold in all; default "64MiB"
---@field json_values? integer values in one JSON body; default 100000
---@field body? moonpool.Bytes a request's body, where the endpoint says nothing; default "8MiB"

---@class moonpool.Server
---@field listen? string | (string | table)[] default "127.0.0.1:7171"; port 0: any free one; beyond loopback only with keys
---@field workers? integer threads that serve; default one per two cores; changed by a restart only
---@field use? moonpool.Use plugins around every endpoint, outermost first; routes that they bring are added
---@field limits? moonpool.Limits
---@field policy? string name of the mp.policy that decides; default "default", moonpool's own
---@field metrics? boolean true: GET /metrics on these addresses too, not on the admin socket only

--- Settings of the whole server; at most once.
---@param t moonpool.Server
function mp.server(t) end

---@class moonpool.Device
---@field memory? moonpool.Bytes what may be reserved there at once; default: four fifths of what there is
---@field max_wait? moonpool.Seconds a request waits so long before a model that is in use makes room for its own; default 10
---@field min_residency? moonpool.Seconds a model that is in use stays so long before it makes room for another; default 5

--- What the models on a device may take together: `mp.device "cpu" { memory = "2GiB" }`.
---@param name "cpu" | "fake"
---@return fun(t: moonpool.Device): moonpool.Device
function mp.device(name) end

---@class moonpool.Sampling
---@field max_tokens? integer tokens to generate at most; default: up to the context
---@field temperature? number 0 (greedy) to 10; default 1
---@field top_k? integer choose among so many; 0: all
---@field top_p? number choose among the likeliest that make up so much; 1: all
---@field min_p? number drop what is less likely than so much of the likeliest; 0: nothing
---@field seed? integer same seed and settings, same text; default: random

--- How many replicas a model may have, and what they take. A declaration's are overridden by schedules and by model:scale{}.
---@class moonpool.Settings
---@field min_replicas? 0|1 1: loaded at start and kept warm; 0 (default): loaded by the first request
---@field max_replicas? 0|1 the cost ceiling; default 1; 0: requests are refused
---@field scaledown_window? moonpool.Seconds time without a request after which it goes cold; default 300
---@field startup_timeout? moonpool.Seconds time a load may take; default 600
---@field target_concurrency? integer requests per replica to scale for; default 8, at most max_concurrency
---@field max_concurrency? integer requests that a replica takes at once; default 16
---@field queue? { max?: integer, timeout?: moonpool.Seconds } requests that wait for a place: how many (default 64; more are 429), and
--- for how long (default 30, then 503; the time a load takes does not count)

--- From each tick on until another schedule, or model:scale{}, sets the same key. Every local time happens once, also when clocks change.
---@class moonpool.Schedule
---@field cron string "0 8 * * 1-5": minute, hour, day of month, month, weekday; or "@daily" and the like
---@field tz? string an IANA time zone, like "Europe/Berlin"; default UTC
---@field set moonpool.Settings what counts from then on

---@class moonpool.ModelTable: moonpool.Settings
---@field source string a GGUF file: beside the configuration, in $MOONPOOL_MODELS, or in models/
---@field sha256? string verified if given
---@field devices? string | string[] in order of preference, nothing else is used; default { "cpu" }
---@field context? integer tokens of prompt and answer together; default: the model's own
---@field numerics? "plain"
---@field alias? string | string[] further names that requests may use
---@field sampling? moonpool.Sampling defaults; a call overrides them one by one
---@field schedules? moonpool.Schedule[] other settings by time of day
---@field preload? boolean loaded once when it is declared, by a reload before it counts; default false

--- Declares a model: `local smol = mp.model "smollm2" { source = "smollm2.gguf" }`.
---@param name string
---@return fun(t: moonpool.ModelTable): moonpool.Model
function mp.model(name) end

--- A field of `input` or of a plugin's `config`: a type's name, or a table that begins with one.
--- Types: "string", "number", "integer", "boolean", "seconds", "bytes", "list", "map", "table", "any"; or `enum`.
---@class moonpool.Field
---@field [1]? string the type
---@field enum? string[] one of these words, instead of a type
---@field min? number of a number; characters of a string; items of a list
---@field max? number
---@field default? any makes it optional
---@field optional? boolean
---@field of? moonpool.Field | string what a list or map holds
---@field fields? table<string, moonpool.Field | string> what a table holds

---@class moonpool.Endpoint
---@field route string "POST /haiku", "GET /v1/models/{id}"; GET answers HEAD too
---@field handle fun(req: moonpool.Request, res: moonpool.Response, input: table): ... see moonpool.Answer
---@field input? table<string, moonpool.Field | string> checked before the handler runs: the JSON body, or the query for GET and DELETE
---@field use? moonpool.Use plugins around this endpoint, inside those of mp.server
---@field max_body? moonpool.Bytes a larger body is 413; default: mp.server's limits.body
---@field max_concurrency? integer requests at once, over all workers; one more is 429 with Retry-After, before its body is read
---@field timeout? moonpool.Seconds a request's time in all; then 504, or an error event, and what it runs is cancelled

--- What a handler returns: a table (JSON), a string (text), a stream (sent as server-sent events by C), mp.reply{…}, or nil and an error.
--- Nothing only after res:events().
---@alias moonpool.Answer table | string | moonpool.Stream | moonpool.Reply | nil

--- Declares an endpoint.
---@param t moonpool.Endpoint
function mp.endpoint(t) end

--- Policies: who decides. `mp.policy "mine" { scale = function(pool, now, state) … end }`, and mp.server { policy = "mine" }. A slot that
--- is left out is decided as in lua/moonpool/policy/default.lua, which is there to be copied and called.
---
--- Each function answers with a decision and a reason (a string, or nothing), and is pure: it sees its arguments, `now` in seconds since
--- 1970 among them. In it waits, mp.time, mp.uuid, mp.env, mp.shared, os.time() and os.date() of now, os.clock and math.random raise;
--- mp.log and print work. Variables outside of functions are no memory: there is one VM per worker, one for scale and evict, and a reload
--- makes new ones. One that raises, takes longer than limits.burst or more than limits.run_memory, or answers what makes no sense, does
--- not count for that decision: the default does. That is logged once a minute, counted and shown by `moonpool status`; every decision,
--- its reason and what it was decided from by `moonpool decisions`.
---@class moonpool.Policy
---@field scale? fun(pool: moonpool.Pool, now: number, state: table): number, string? how many replicas, 0..1024, rounded up; then held to
--- min_replicas and max_replicas. `state` is a table per model that lives on, also over a reload: what JSON can hold, 64 KiB at most; set
--- its fields. On the control thread
---@field evict? fun(candidates: moonpool.Pool[], need: integer, now: number): string[], string? names of those who go so that `need`
--- bytes come free. On the control thread
---@field admit? fun(req: moonpool.Call, pool: moonpool.Pool, now: number): "accept" | "queue" | nil, string | moonpool.Error | nil
--- "queue": behind everything that is accepted. nil and an error (or its text): model:chat and its kin return it; by default its code is
--- "refused" and its status 429. In the request's worker, like the next two
---@field route? fun(req: moonpool.Call, candidates: moonpool.Pool[], now: number): string, string? the name of the model that answers.
--- candidates[1] is the one that was asked for; then the others, in the order of their declaration
---@field rank? fun(job: moonpool.Call, now: number): number, string? -1000..1000: higher ones get a place first. Once, when it comes

--- A model at this moment, with the settings that count now (schedules and model:scale{} over the declaration's).
---@class moonpool.Pool: moonpool.Settings
---@field name string
---@field device string the group it lives on: "cpu"
---@field state "cold" | "loading" | "warm" | "draining" | "failed"
---@field replicas integer that load, are warm or drain
---@field warm integer
---@field in_flight integer requests that have a place
---@field queued integer requests that wait for one
---@field idle number seconds since it had a request or became warm, whatever was later; 0 while it has requests
---@field oldest_wait number seconds that the longest waiter has waited, loading not counted
---@field load_seconds number how long a load is expected to take; 0: unknown
---@field resident number seconds since it became warm; 0: it is not
---@field memory integer bytes reserved on its device
---@field need integer bytes that a load reserves; 0: unknown
---@field calls integer requests ever
---@field loads integer loads ever

--- A request for a model.
---@class moonpool.Call
---@field id string the request's id
---@field endpoint string "POST /haiku"
---@field path string "/haiku"
---@field remote string "127.0.0.1:51234"
---@field tenant string "": nobody has one yet
---@field model string the name of the model that was asked for
---@field priority integer the script's; 0
---@field deadline? number seconds that are left

--- Declares a policy; the one that mp.server names counts.
---@param name string
---@return fun(t: moonpool.Policy): moonpool.Policy
function mp.policy(name) end

---@class moonpool.JobTable
---@field run fun(job: moonpool.Job): nil, moonpool.Error? like a handler: the same functions and limits; `nil, err` is a failure
---@field cron? string "0 8 * * 1-5": minute, hour, day of month, month, weekday; or "@daily" and the like. This, or `every`
---@field tz? string of cron: an IANA time zone, like "Europe/Berlin"; default UTC. Every local time happens once, also when clocks change
---@field every? moonpool.Seconds from when the declaration was first seen; at least 0.1
---@field jitter? moonpool.Seconds each tick is put off by up to so much: always the same for a job and a tick
---@field overlap? "skip"|"queue"|"allow" a tick comes while it runs: drop it (default), run once behind, run too (16 at most)
---@field timeout? moonpool.Seconds then it is stopped; default: never
---@field per? "node"|"worker" once in the server (default), or in each worker

--- A tick. The last one that was fired is remembered over reloads and restarts: none is fired twice. Those that were missed (the server was
--- away) become one late run, however late.
---@class moonpool.Job
---@field name string
---@field tick number when it should have been, Unix seconds, without jitter
---@field late number seconds behind that (and its jitter)
---@field missed integer ticks before it that had no run

--- Declares a job: what runs by the clock.
---@param name string
---@return fun(t: moonpool.JobTable): moonpool.JobTable
function mp.job(name) end

--- Declares a dictionary that all workers share, and that a reload leaves as it is (but for its size). Not on disk.
---@param name string
---@return fun(t: { bytes?: moonpool.Bytes }): moonpool.Shared  bytes: at most, keys and bookkeeping counted; default "16MiB"
function mp.shared(name) end

---@class moonpool.Plugin
---@field version string
---@field api 1
---@field config? table<string, moonpool.Field | string> what `use = { { "name", … } }` may set
---@field routes? moonpool.Endpoint[] endpoints it brings, when used by mp.server
---@field admit? fun(conf: table, req: moonpool.Request): true | nil, moonpool.Error? before the input's check and every handle
---@field handle? fun(conf: table, req: moonpool.Request, res: moonpool.Response, next: fun(): ...): ... around the endpoint; next() once

--- Declares a plugin, in the configuration or in plugins/<name>/init.lua beside it.
---@param name string
---@return fun(t: moonpool.Plugin): moonpool.Plugin
function mp.plugin(name) end

--- The bytes of a file, relative to the configuration's folder. Only while the configuration loads: it belongs to the snapshot.
---@param path string
---@return string? bytes
---@return moonpool.Error? err
function mp.read_file(path) end

--------------------------------------------------------------------------------------------------------------------------------------
-- Errors
--------------------------------------------------------------------------------------------------------------------------------------

--- Prints as its message. A handler may make its own: a plain table with `code` and `message` will do.
---@class moonpool.Error
---@field code string stable: "invalid_argument", "context_length_exceeded", "queue_full", "refused", "unavailable", "closed", …
---@field message string for people; the client sees it
---@field status? integer 400..599; default: what the code stands for, else 500
---@field retry_after? number seconds; becomes the Retry-After header
---@field param? string the field that was wrong
---@field cause? any

--------------------------------------------------------------------------------------------------------------------------------------
-- In a handler
--------------------------------------------------------------------------------------------------------------------------------------

--- Fields are free and plain; methods cost. Dead when the request is over: keep values, not `req`.
---@class moonpool.Request
---@field method string "POST"
---@field path string decoded
---@field params table<string, string> the route's {parameters}, decoded
---@field query table<string, string> decoded; of a name that comes twice the first
---@field headers table<string, string> lower-case names; values of a name that comes twice joined by ", "
---@field remote string "127.0.0.1:51234"
---@field id string the request's id: in the log, in errors, in X-Request-Id
---@field tenant nil nobody has one yet
---@field ctx table for the handler and its plugins
local Request = {}

--- The body as JSON; nil and a 400 when it is not.
---@return any value
---@return moonpool.Error? err
function Request:json() end

---@return string bytes the body as it came
function Request:body() end

--- The body as UTF-8; nil and a 400 when it is not.
---@return string? text
---@return moonpool.Error? err
function Request:text() end

---@class moonpool.Response
local Response = {}

--- Of the table, string, stream or events that follow.
---@param code integer 200..599
---@return moonpool.Response
function Response:status(code) end

--- Replaces the header of that name.
---@param name string
---@param value string | number
---@return moonpool.Response
function Response:header(name, value) end

--- Begins an answer of server-sent events by hand; the same object each time.
---@return moonpool.Events
function Response:events() end

---@class moonpool.Events
local Events = {}

--- Sends one event: a table as JSON, a string as it is. Waits while the client is slow to read.
---@param event table | string
---@return true? ok
---@return moonpool.Error? err "closed": the client has left
function Events:send(event) end

--- In a handler or a job. Keys: 1 to 1024 bytes. Values: strings, numbers, booleans, mp.null, and tables with a JSON form (copied). Gone
--- when their `ttl` is over; when room is needed what was not used for longest goes first.
---@class moonpool.Shared
local Shared = {}

---@param key string
---@return any value nil when it is not there
function Shared:get(key) end

---@param key string
---@param value any
---@param options? { ttl?: moonpool.Seconds }
---@return true? ok
---@return moonpool.Error? err "limit_exceeded": larger than the dictionary
function Shared:set(key, value, options) end

--- Sets it unless it is there.
---@param key string
---@param value any
---@param options? { ttl?: moonpool.Seconds }
---@return boolean? added
---@return moonpool.Error? err
function Shared:add(key, value, options) end

--- Sets it if it holds `old` (nil: if it is not there).
---@param key string
---@param old any
---@param new any
---@param options? { ttl?: moonpool.Seconds }
---@return boolean? swapped
---@return moonpool.Error? err
function Shared:cas(key, old, new, options) end

--- Adds to a number. One that is not there counts from `init`, and lives for `ttl`.
---@param key string
---@param by? number default 1
---@param options? { init?: number, ttl?: moonpool.Seconds }
---@return number? sum
---@return moonpool.Error? err "invalid_argument": it holds no number
function Shared:incr(key, by, options) end

--- Seconds that it has left (math.huge: it stays), nil when it is not there; with `seconds`: sets them, and says whether it is there.
---@param key string
---@param seconds? moonpool.Seconds
---@return number | boolean | nil
function Shared:ttl(key, seconds) end

---@param key string
---@return boolean was it there
function Shared:del(key) end

---@param n? integer at most; default 100, up to 1000
---@return string[] keys last used first
function Shared:keys(n) end

--- What is at the key; else what `compute` gives, which is kept. Of all who want it at a time, on whatever worker, one computes and the
--- others wait. An error (nil, err) is told to those who wait, and not kept. When the one that computes dies another one of them does.
---@param key string
---@param options? { ttl?: moonpool.Seconds }
---@param compute fun(): any, moonpool.Error?
---@return any value
---@return moonpool.Error? err
function Shared:fetch(key, options, compute) end

---@class moonpool.Reply

--- An answer in full; return it from a handler. At most one of json, text, body.
---@param t { status?: integer, headers?: table<string, string | number | string[]>, json?: any, text?: string, body?: string }
---@return moonpool.Reply
function mp.reply(t) end

---@class moonpool.Model
---@field name string
local Model = {}

---@class moonpool.Message
---@field role "system" | "user" | "assistant" | string
---@field content string

---@class moonpool.ChatArgs: moonpool.Sampling
---@field messages moonpool.Message[] at most 2048
---@field priority? integer -1000..1000: higher ones get a place first; default 0
---@field stop? string | string[] texts that end the answer; at most 8 of 256 bytes

---@class moonpool.CompleteArgs: moonpool.Sampling
---@field prompt string not empty
---@field priority? integer -1000..1000
---@field stop? string | string[]

--- Times are wall time, but for device_seconds.
---@class moonpool.Usage
---@field prompt_tokens integer
---@field completion_tokens integer
---@field device_seconds number its part of the device's busy time
---@field queue_seconds number waiting for a place; loading is not counted
---@field load_seconds number waiting while the model loaded
---@field prefill_seconds number from the start on the device to the first token
---@field decode_seconds number from the first token to the last
---@field ttft_seconds number from the call to the first token

---@class moonpool.Result
---@field text string
---@field finish_reason "stop" | "length"
---@field usage moonpool.Usage

--- The whole answer. Waits, for the model to load too. When the client leaves, the generation is cancelled.
---@param args moonpool.ChatArgs
---@return moonpool.Result? result
---@return moonpool.Error? err
function Model:chat(args) end

--- The same for text that goes on. Waits.
---@param args moonpool.CompleteArgs
---@return moonpool.Result? result
---@return moonpool.Error? err
function Model:complete(args) end

--- A stream, once the prompt has been accepted. Waits for that, 5 s at most. When it is returned and its model is not ready yet, the
--- client gets comments with the progress; what fails then is an error event, for the answer's head is out.
---@param args moonpool.ChatArgs
---@return moonpool.Stream? stream
---@return moonpool.Error? err
function Model:chat_stream(args) end

---@param args moonpool.CompleteArgs
---@return moonpool.Stream? stream
---@return moonpool.Error? err
function Model:complete_stream(args) end

--- Asks for other settings now: `smol:scale { min_replicas = 1 }`. They count until a schedule sets the same key; mp.null: what the
--- configuration says again. Does not wait for what follows from it.
---@param settings moonpool.Settings
---@return true? ok
---@return moonpool.Error? err what is out of its range
function Model:scale(settings) end

---@class moonpool.Status: moonpool.Settings what counts now, schedules and model:scale{} included
---@field state "declared"|"cold"|"loading"|"warm"|"draining"|"failed"
---@field reason string why it failed, or ""
---@field state_seconds number in this state
---@field in_flight integer requests that have a place
---@field waiting integer requests that wait for one
---@field running integer in the engine, on the device
---@field queued integer in the engine, waiting for room
---@field calls integer requests ever
---@field cold_starts integer of these, those that waited for a load
---@field idle number seconds since the last one ended or came
---@field loads integer since its engine started
---@field load_seconds number the last load's; 0: none yet
---@field memory integer bytes on the device
---@field need integer bytes that a load reserves; 0: not known yet
---@field reserved integer bytes that are reserved now
---@field context integer tokens; 0: not known yet
---@field device string
---@field arch string

--- What is known of the model now.
---@return moonpool.Status?
---@return moonpool.Error? err
function Model:status() end

--- Belongs to its request. Return it, or read it: then text waits here (64 KiB at most) until it is read.
---@class moonpool.Stream
local Stream = {}

--- `for delta in stream:deltas() do … delta.text … end`. Waits. Ends with the stream, well or not: stream:result() tells.
---@return fun(): { text: string }?
function Stream:deltas() end

--- What model:chat returns. Waits for the end.
---@return moonpool.Result? result
---@return moonpool.Error? err
function Stream:result() end

--- The format in which C sends it: "default" ({"text": …} … {"done": true, …}), "openai.chat", "openai.completion".
---@param format string
---@param options? { id?: string, model?: string, include_usage?: boolean }
---@return moonpool.Stream
function Stream:as(format, options) end

--- Functions side by side. Waits for all of them; the first failure (nil, err) cancels the rest.
---@param functions table<any, fun(): any, moonpool.Error?> at most 64
---@return table<any, any>? results the first result of each, by the same keys
---@return moonpool.Error? err
function mp.all(functions) end

--- Lets other requests run for that long.
---@param seconds number 0..86400
---@return true? ok
---@return moonpool.Error? err "closed": the client has left
function mp.sleep(seconds) end

--------------------------------------------------------------------------------------------------------------------------------------
-- Anywhere
--------------------------------------------------------------------------------------------------------------------------------------

mp.log = {}

--- A line of the server's log, with the request's id when there is one. The same: debug, warn, error.
---@param text string
---@param fields? table<string, any> key=value behind the text
function mp.log.info(text, fields) end

mp.log.debug, mp.log.warn, mp.log.error = mp.log.info, mp.log.info, mp.log.info

mp.json = {}

---@param text string
---@return any value null is mp.null; empty arrays stay arrays
---@return moonpool.Error? err
function mp.json.decode(text) end

--- An empty table is {}, unless it is mp.json.array{}. Keys come out sorted.
---@param value any
---@return string? text
---@return moonpool.Error? err NaN, functions, integers beyond 2^53 and the like, by their path
function mp.json.encode(value) end

--- Marks a table as an array, for when it may be empty.
---@param t? table
---@return table t
function mp.json.array(t) end

--- An environment variable of the server.
---@param name string
---@return string? value
function mp.env(name) end

---@return number seconds since 1970, with fractions
function mp.time() end

---@return string uuid random, version 4
function mp.uuid() end

return mp
