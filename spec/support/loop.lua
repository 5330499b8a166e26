--- spec/support/loop.lua: the engine's loop (core/engine/loop.h) over the fake device in virtual time, for specs.
--- `rig { device = "delay_ms=5", lim = { max_slot = 4 }, conf = { chunk = 7 } }` → an object with submit, turn, events.
local assert = require "luassert"
local gpu = require "spec.support.gpu"
local C, ffi = require "spec.support.ffi"("gpu/fake/fake.h", "core/engine/seq.h", "core/wire/msg.h", "core/base/utf8.h")
jit.off(true, true) -- C calls back into Lua (pieces of tokens) from inside mp_loop_turn

local M = { C = C, ffi = ffi, gpu = gpu, n_vocab = 1000 }
local Rig = {}
Rig.__index = Rig

--- A plan with a kv group and logits; the fake looks at nothing else.
function M.plan()
  local p = gpu.plan(512)
  local w = p:weight("BOTH", gpu.weight(gpu.random(1), gpu.types.F32, 16, M.n_vocab))
  local kv = p:kv { layers = 1, heads = 1, dim_k = 16, dim_v = 16 }
  local x = p:node("embed", {}, { n = 16 }, nil, { w })
  p:node("kv_put", { x, x }, nil, { kv = kv })
  x = p:node("attn", { x }, { n = 16 }, { kv = kv, heads = 1, scale = 0.25 })
  x = p:node("gather", { x }, { n = 16, rows = "OUT" })
  p:output(p:node("linear", { x }, { n = M.n_vocab, rows = "OUT" }, nil, { w }), "logits")
  return p
end

--- The text of a token: letters, so that stops are found often; every 50th is a piece of a character, every 97th ends the text.
local pieces, room = {}, ffi.new("char[?]", M.n_vocab * 8)
for id = 0, M.n_vocab - 1 do
  local s = string.char(97 + id % 5, 97 + math.floor(id / 5) % 5)
  if id % 50 == 0 then
    s = ({ "\226\130", "\172", "\240", "\255x" })[id / 50 % 4 + 1]
  elseif id % 3 == 0 then
    s = s:sub(1, 1)
  end
  pieces[id] = s
  ffi.copy(room + id * 8, s, #s)
end
M.pieces = pieces
function M.is_eog(id)
  return id % 97 == 0
end

local piece = ffi.cast("const char *(*)(void *, int32_t, size_t *)", function(_, id, n)
  n[0] = #pieces[id]
  return room + id * 8
end)
local is_eog = ffi.cast("bool (*)(void *, int32_t)", function(_, id)
  return M.is_eog(id)
end)
local fake_now = ffi.cast("uint64_t (*)(void *)", C.mp_fake_now)

function M.rig(t)
  t = t or {}
  local self = setmetatable({ tags = 0 }, Rig)
  self.dev = gpu.open("fake", "time=virtual," .. (t.device or "delay_ms=5,tok_us=100"))
  local lim = { max_tok = 64, max_seq = 8, max_slot = 8, max_out = 8, max_pages = 64, max_seq_pages = 32, commit = false }
  for k, v in pairs(t.lim or {}) do
    lim[k] = v
  end
  self.exec = self.dev:build(M.plan(), lim)
  local conf = ffi.new("struct mp_loop_conf", t.conf or {})
  conf.now, conf.ctx = fake_now, self.dev.c
  self.room = C.mp_room_new()
  conf.room = self.room
  self.loop = C.mp_loop_new(self.dev.ops, self.dev.c, conf)
  self.replica = self:add_replica(self.exec, t.context)
  return self
end

function Rig:add_replica(exec, context)
  local body = ffi.new "struct mp_body"
  body.exec, body.lim, body.page_tokens, body.n_kvs, body.n_vocab = exec.c, exec.lim, 16, 1, M.n_vocab
  body.kv[0], body.page_bytes[0] = exec.kv[0], exec.page_bytes[0]
  body.tok_cost, body.kv_cost = 1000, 7
  local vocab = ffi.new "struct mp_vocab"
  vocab.piece, vocab.is_eog = piece, is_eog
  return C.mp_replica_new(self.loop, context or 512, vocab, body)
end

--- t: prompt (ids), max_tokens, stops, and other fields of START. Returns the tag and the sequence, or nil, code, text.
function Rig:submit(t, replica)
  local s, err, keep = ffi.new "struct mp_msg_start", ffi.new "struct mp_err", {}
  C.mp_msg_start_init(s)
  s.greedy = 1
  for k, v in pairs(t) do
    if k == "stops" then
      s.n_stops = #v
      for i, stop in ipairs(v) do
        keep[i] = stop
        s.stops[i - 1].p, s.stops[i - 1].n = stop, #stop
      end
    elseif k ~= "prompt" then
      s[k] = v
    end
  end
  self.tags = self.tags + 1
  local ids = ffi.new("int32_t[?]", math.max(#t.prompt, 1), t.prompt)
  local seq = C.mp_loop_submit(replica or self.replica, self.tags, ids, #t.prompt, s, err)
  if seq == nil then
    return nil, err.code, ffi.string(err.message)
  end
  return self.tags, seq
end

function Rig:turn(timeout_ms)
  return C.mp_loop_turn(self.loop, (timeout_ms or 1000) * 1e6)
end

local function str(span)
  return span.n > 0 and ffi.string(span.p, span.n) or ""
end

--- What is to be told, as a list of tables.
function Rig:events()
  local list, m = {}, ffi.new "struct mp_msg"
  while C.mp_loop_event(self.loop, m) do
    local e = { tag = tonumber(m.id), kind = ffi.string(C.mp_msg_name(m.type)) }
    local u = m.u[e.kind]
    e.made, e.device_ns = u.completion_tokens, tonumber(u.device_ns)
    if e.kind == "error" then
      e.code, e.message = str(u.code), str(u.message)
    else
      e.text = str(u.text)
    end
    if e.kind == "done" then
      e.finish, e.stop, e.prompt_tokens = ffi.string(C.mp_msg_finish_name(u.finish)), str(u.stop), u.prompt_tokens
      for _, k in ipairs { "prefill_ns", "queue_ns", "first_ns", "total_ns" } do
        e[k] = tonumber(u[k])
      end
    end
    list[#list + 1] = e
  end
  return list
end

--- Turns until nothing is left to do; the results by tag: { text, made, finish | code, … }.
function Rig:run(results)
  results = results or {}
  repeat
    local more = self:turn()
    for _, e in ipairs(self:events()) do
      M.collect(results, e)
    end
  until not more
  return results
end

function M.collect(results, e)
  local r = results[e.tag] or { text = "", made = 0, device_ns = 0 }
  results[e.tag] = r
  assert(not r.ended, "an event after the last")
  assert(e.made >= r.made and e.device_ns >= r.device_ns, "cumulative figures went back")
  r.text, r.made, r.device_ns = r.text .. (e.text or ""), e.made, e.device_ns
  if e.kind ~= "tokens" then
    r.ended = true
    for k, v in pairs(e) do
      if k ~= "text" then
        r[k] = v
      end
    end
  end
end

function Rig:stats()
  local s = ffi.new "struct mp_loop_stats"
  C.mp_loop_stats(self.loop, s)
  return s
end

function Rig:replica_stats(replica)
  local s = ffi.new "struct mp_replica_stats"
  C.mp_replica_stats(replica or self.replica, s)
  return s
end

local function text_of(fn, dev)
  local b = ffi.new "struct mp_buf"
  local n = fn(dev, b)
  local s = b.len > 0 and ffi.string(b.data, b.len) or ""
  C.mp_buf_free(b)
  return s, n
end

--- The device's log since last asked: a list of { kind, exec, {slot = …, pos = …, n = …}… }.
function Rig:log()
  local list = {}
  for line in text_of(C.mp_fake_log, self.dev.c):gmatch "[^\n]+" do
    local entry = { kind = line:match "^%S+", exec = tonumber(line:match "exec=(%d+)"), slots = {}, line = line }
    for slot, rest in line:gmatch "slot=(%d+)([^|]*)" do
      local pos, n = rest:match "pos=(%d+) n=(%d+)"
      entry.slots[#entry.slots + 1] = { slot = tonumber(slot), pos = tonumber(pos), n = tonumber(n) }
    end
    list[#list + 1] = entry
  end
  return list
end

--- Ends the rig, asserting that everything is back where it was and that the device saw no rule broken.
function Rig:close()
  local s = self:replica_stats()
  assert.same({ 0, 0, 0, 0, 0 }, { s.running, s.waiting, s.slots_used, s.pages_used, s.pages_reserved })
  assert.equal(0, C.mp_replica_busy(self.replica))
  assert.equal(0, self:stats().in_flight)
  C.mp_replica_free(self.replica)
  C.mp_loop_free(self.loop)
  assert.equal(0, tonumber(C.mp_room_held(self.room))) -- the rig's loads hold nothing of it, and nobody else is left
  C.mp_room_free(self.room)
  local what, n = text_of(C.mp_fake_violations, self.dev.c)
  assert.equal("", what)
  assert.equal(0, n)
  self.dev:close()
end

--- What the fake samples for a prompt by itself: n ids, straight from the device.
function M.ids_alone(exec, prompt, n, seed, slot, pages)
  local ids, tok, pos = {}, prompt, 0
  exec.ops.slot_set(exec.c, slot, nil, 0)
  for _ = 1, n do
    exec:forward { { tok = tok, pos = pos, pages = pages, slot = slot } }
    pos = pos + #tok
    local got = exec:sample { { row = 0, slot = slot, index = pos, seed = seed, greedy = seed == nil, temp = 1 } }
    ids[#ids + 1] = got[0].id
    tok = { got[0].id }
  end
  return ids
end

return M
