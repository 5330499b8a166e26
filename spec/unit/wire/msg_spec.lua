--- core/wire/msg.h: what is encoded is what is decoded; every field is checked on both sides; nothing is left over.
local C, ffi = require "spec.support.ffi"("core/wire/msg.h", "core/wire/wire.h")

local keep -- strings that spans point into
local function span(s)
  keep[#keep + 1] = s
  return { ffi.cast("const char *", s), #s }
end

local function message(type, id, fields)
  local m = ffi.new "struct mp_msg"
  m.type, m.id = ffi.C["MP_MSG_" .. type:upper()], id
  for name, value in pairs(fields or {}) do
    m.u[type][name] = value
  end
  return m
end

local function encode(m)
  local out, err = ffi.new "struct mp_buf", ffi.new "struct mp_err"
  local rc = C.mp_msg_encode(out, m, err)
  local bytes = out.len > 0 and ffi.string(out.data, out.len) or ""
  C.mp_buf_free(out)
  return rc == 0 and bytes or nil, ffi.string(err.message)
end

local function decode(bytes)
  local m, err, used = ffi.new "struct mp_msg", ffi.new "struct mp_err", ffi.new "size_t[1]"
  keep[#keep + 1] = bytes
  local rc = C.mp_msg_next(m, bytes, #bytes, used, err)
  return rc, m, ffi.string(err.message), tonumber(used[0])
end

local function u32(n)
  return string.char(n % 256, math.floor(n / 256) % 256, math.floor(n / 65536) % 256, math.floor(n / 16777216))
end

--- One message of each type, no field at its zero.
local function samples()
  local start = ffi.new "struct mp_msg"
  start.type, start.id = ffi.C.MP_MSG_START, 9
  C.mp_msg_start_init(start.u.start)
  start.u.start.seed = 2 ^ 53
  start.u.start.n_stops = 2
  start.u.start.stops[0] = span "\n\n"
  start.u.start.stops[1] = span(("x"):rep(256))
  return {
    message("hello", 0, { magic = C.MP_WIRE_MAGIC, version = 2, oldest = 2, role = 1, pid = 5, build = span "0.1" }),
    message("ping", 0, { nonce = 77 }),
    message("pong", 0, { nonce = 77, step_ns = 5 }),
    message("model_declare", 1, { name = span "smollm2", spec = span '{"source":"a.gguf"}' }),
    message("model_load", 2, { name = span "smollm2" }),
    message("model_unload", 3, { name = span "smollm2" }),
    message("models", 4),
    message("models_end", 4, { count = 1 }),
    message("model_state", 4, { name = span "smollm2", state = C.MP_MODEL_FAILED, error = -4, reason = span "no file",
      need = 2 ^ 30, reserved = 2 ^ 31, replacing = 1, cause = span "the old one is back" }),
    message("prepare", 5, { model = span "smollm2", kind = 1, special = 1, payload = span "Hello" }),
    message("prepared", 5, { n_tokens = 3, left = 2045 }),
    start,
    message("tokens", 9, { completion_tokens = 4, device_ns = 123456789, text = span "Grüße" }),
    message("done", 9, { finish = 1, stop = span "\n\n", prompt_tokens = 3, completion_tokens = 9, text = span "!" }),
    message("error", 9, { code = span "unavailable", message = span "why", retry_ns = 1 }),
    message("cancel", 9),
    message("window", 9, { bytes = 4096 }),
    message("device_limit", 10, { memory = 2 ^ 40 }),
    message("device_state", 10, { device = span "cpu: 2 threads", memory = 2 ^ 40, reserved = 3, used = 2 }),
    message("model_check", 11, { name = span "smollm2", spec = span '{"source":"a.gguf"}' }),
    message("model_forget", 12, { name = span "smollm2" }),
    message("bye", 0, { reason = span "idle" }),
  }
end

describe("wire messages", function()
  before_each(function()
    keep = {}
  end)

  it("come back as they were, every type", function()
    local seen = {}
    for _, m in ipairs(samples()) do
      local bytes = assert(encode(m))
      local rc, back, why, used = decode(bytes)
      assert.equal(1, rc, why)
      assert.equal(#bytes, used)
      assert.equal(bytes, encode(back))
      seen[m.type] = ffi.string(C.mp_msg_name(m.type))
    end
    local n = 0
    for type = 0, 300 do
      if C.mp_msg_name(type) ~= nil then
        n = n + 1
        assert.is_string(seen[type], "no sample of message " .. type)
      end
    end
    assert.equal(22, n)
  end)

  it("keep their fields", function()
    local _, m = decode(assert(encode(message("tokens", 9, { completion_tokens = 4, device_ns = 2 ^ 40, text = span "Grüße" }))))
    assert.equal(9, tonumber(m.id))
    assert.equal(4, m.u.tokens.completion_tokens)
    assert.equal(2 ^ 40, tonumber(m.u.tokens.device_ns))
    assert.equal("Grüße", ffi.string(m.u.tokens.text.p, m.u.tokens.text.n))
  end)

  it("wait for the rest of a frame, however it is cut", function()
    local bytes = assert(encode(message("tokens", 9, { text = span "abc" })))
    for n = 0, #bytes - 1 do
      assert.equal(0, (decode(bytes:sub(1, n))))
    end
  end)

  it("are refused when a payload is cut short or too long, saying which message", function()
    for _, m in ipairs(samples()) do
      local bytes = assert(encode(m))
      local name = ffi.string(C.mp_msg_name(m.type))
      for n = 16, #bytes - 1 do
        local rc, _, why = decode(u32(n - 4) .. bytes:sub(5, n))
        assert.equal(C.MP_EPROTO, rc)
        assert.matches("message " .. name .. ": %S+ is missing or out of range", why)
      end
      local rc, _, why = decode(u32(#bytes - 3) .. bytes:sub(5) .. "x")
      assert.equal(C.MP_EPROTO, rc)
      assert.equal("message " .. name .. ": 1 bytes too many", why)
    end
  end)

  it("are refused when a frame's head is wrong", function()
    local rc, _, why = decode(u32(3) .. ("\0"):rep(12))
    assert.equal(C.MP_EPROTO, rc)
    assert.matches("a frame of 3 bytes", why)
    rc, _, why = decode(u32(0xffffffff))
    assert.equal(C.MP_EPROTO, rc)
    assert.matches("a frame of 4294967295 bytes", why)
    rc, _, why = decode(u32(12) .. "\99\1" .. ("\0"):rep(10))
    assert.equal(C.MP_EPROTO, rc)
    assert.equal("no message of type 355 with flags 0", why)
    rc, _, why = decode(u32(12) .. "\16\0\1\0" .. ("\0"):rep(8))
    assert.equal(C.MP_EPROTO, rc)
    assert.equal("no message of type 16 with flags 1", why)
  end)

  it("hold to their ranges when encoded", function()
    for field, value in pairs {
      temperature = 101, top_p = 1.5, min_p = -2, repetition = 0 / 0, frequency = 1 / 0, greedy = 2, top_logprobs = 21,
      priority = 1001, n_stops = 9,
    } do
      local m = ffi.new "struct mp_msg"
      m.type = ffi.C.MP_MSG_START
      C.mp_msg_start_init(m.u.start)
      m.u.start[field] = value
      local bytes, why = encode(m)
      assert.is_nil(bytes, field)
      assert.equal("message start: " .. field:gsub("^n_", "") .. " is out of range", why)
    end
    local bytes, why = encode(message("model_load", 1, { name = span(("n"):rep(129)) }))
    assert.is_nil(bytes)
    assert.equal("message model_load: name is out of range", why)
  end)

  it("hold to their ranges when decoded", function()
    local bytes = assert(encode(message("prepare", 1, { model = span "m", kind = 2, payload = span "p" })))
    assert.equal(1, (decode(bytes)))
    local rc, _, why = decode(bytes:sub(1, 21) .. "\9" .. bytes:sub(23)) -- kind
    assert.equal(C.MP_EPROTO, rc)
    assert.equal("message prepare: kind is missing or out of range", why)
    rc, _, why = decode(bytes:sub(1, 16) .. u32(0xfffffff0) .. bytes:sub(21)) -- model's length
    assert.equal(C.MP_EPROTO, rc)
    assert.equal("message prepare: model is missing or out of range", why)
  end)

  it("carry an error's code by name", function()
    local err, m = ffi.new "struct mp_err", ffi.new "struct mp_msg"
    err.code = C.MP_ECONTEXT
    ffi.copy(err.message, "too long")
    C.mp_msg_set_error(m, 3, err)
    local _, back = decode(assert(encode(m)))
    assert.equal("context_length_exceeded", ffi.string(back.u.error.code.p, back.u.error.code.n))
    assert.equal("too long", ffi.string(back.u.error.message.p, back.u.error.message.n))
  end)
end)
