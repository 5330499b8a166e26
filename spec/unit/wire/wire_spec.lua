--- core/wire/wire.h: two ends of a socket, the handshake, one byte at a time, and peers that speak something else.
local C, ffi = require "spec.support.ffi"("core/wire/wire.h")
ffi.cdef [[
ssize_t send(int, const void *, size_t, int);
ssize_t recv(int, void *, size_t, int);
int close(int);
]]

local err
local function pair()
  local fds = ffi.new "int[2]"
  assert.equal(0, C.mp_wire_pair(fds, err))
  return fds[0], fds[1]
end

local function ping(nonce)
  local m = ffi.new "struct mp_msg"
  m.type = C.MP_MSG_PING
  m.u.ping.nonce = nonce
  return m
end

local function next_message(w)
  local m = ffi.new "struct mp_msg"
  return C.mp_wire_next(w, m, err), m
end

--- What an end has queued, taken off the socket's other side.
local function bytes_of(w, fd)
  assert.equal(0, C.mp_wire_writable(w, err))
  local room = ffi.new "char[65536]"
  local n = tonumber(ffi.C.recv(fd, room, 65536, 0x40))
  return n > 0 and ffi.string(room, n) or ""
end

describe("a wire", function()
  before_each(function()
    err = ffi.new "struct mp_err"
  end)

  it("greets, then carries messages both ways", function()
    local a, b = pair()
    local gateway, engine = C.mp_wire_new(a, C.MP_PEER_GATEWAY), C.mp_wire_new(b, C.MP_PEER_ENGINE)
    assert.equal(0, C.mp_wire_send(gateway, ping(1), err))
    assert.equal(0, C.mp_wire_send(gateway, ping(2), err))
    assert.is_true(tonumber(C.mp_wire_queued(gateway)) > 0)
    assert.equal(0, C.mp_wire_writable(gateway, err))
    assert.equal(0, tonumber(C.mp_wire_queued(gateway)))
    assert.is_false(C.mp_wire_ready(engine))
    assert.equal(0, C.mp_wire_readable(engine, err))
    for nonce = 1, 2 do
      local rc, m = next_message(engine)
      assert.equal(1, rc)
      assert.equal(nonce, tonumber(m.u.ping.nonce))
    end
    assert.equal(0, (next_message(engine)))
    assert.is_true(C.mp_wire_ready(engine))
    assert.equal(2, C.mp_wire_version(engine))
    assert.matches("^gateway %d+%.%d+%.%d+, pid %d+$", ffi.string(C.mp_wire_peer(engine)))
    C.mp_wire_free(gateway)
    assert.equal(C.MP_ECLOSED, C.mp_wire_readable(engine, err))
    assert.matches("^gateway .* closed the connection$", ffi.string(err.message))
    C.mp_wire_free(engine)
  end)

  it("takes bytes one at a time", function()
    local a, b = pair()
    local from = C.mp_wire_new(a, C.MP_PEER_TOOL)
    C.mp_wire_send(from, ping(7), err)
    local bytes = bytes_of(from, b)
    local c, d = pair()
    local to, got = C.mp_wire_new(c, C.MP_PEER_ENGINE), 0
    for i = 1, #bytes do
      assert.equal(0, got)
      ffi.C.send(d, bytes:sub(i, i), 1, 0)
      assert.equal(0, C.mp_wire_readable(to, err))
      local rc, m = next_message(to)
      assert.is_true(rc >= 0, ffi.string(err.message))
      if rc == 1 then
        got = tonumber(m.u.ping.nonce)
      end
    end
    assert.equal(7, got)
    C.mp_wire_free(from)
    C.mp_wire_free(to)
    ffi.C.close(b)
    ffi.C.close(d)
  end)

  it("queues what the socket does not take, and keeps the order", function()
    local a, b = pair()
    local from, to = C.mp_wire_new(a, C.MP_PEER_GATEWAY), C.mp_wire_new(b, C.MP_PEER_ENGINE)
    local m = ffi.new "struct mp_msg"
    local payload = ("x"):rep(100000)
    m.type = C.MP_MSG_PREPARE
    m.u.prepare.payload.p, m.u.prepare.payload.n = payload, #payload
    for i = 1, 40 do
      m.id = i
      assert.equal(0, C.mp_wire_send(from, m, err))
    end
    local most, seen = tonumber(C.mp_wire_queued(from)), 0
    assert.is_true(most > 4000000)
    assert.equal(0, C.mp_wire_writable(from, err))
    assert.is_true(tonumber(C.mp_wire_queued(from)) > 0)
    for _ = 1, 1000 do
      assert.equal(0, C.mp_wire_readable(to, err))
      local rc, back = next_message(to)
      while rc == 1 do
        seen = seen + 1
        assert.equal(seen, tonumber(back.id))
        assert.equal(#payload, back.u.prepare.payload.n)
        rc, back = next_message(to)
      end
      assert.equal(0, rc)
      if seen == 40 then
        break
      end
      assert.equal(0, C.mp_wire_writable(from, err))
    end
    assert.equal(40, seen)
    C.mp_wire_free(from)
    C.mp_wire_free(to)
  end)

  local function hello(version, oldest, magic)
    local m, out = ffi.new "struct mp_msg", ffi.new "struct mp_buf"
    m.type = C.MP_MSG_HELLO
    m.u.hello.magic, m.u.hello.version, m.u.hello.oldest = magic or C.MP_WIRE_MAGIC, version, oldest
    assert.equal(0, C.mp_msg_encode(out, m, err))
    local bytes = ffi.string(out.data, out.len)
    C.mp_buf_free(out)
    return bytes
  end

  local function answer_to(bytes)
    local a, b = pair()
    local w = C.mp_wire_new(a, C.MP_PEER_ENGINE)
    ffi.C.send(b, bytes, #bytes, 0)
    assert.equal(0, C.mp_wire_readable(w, err))
    local rc = next_message(w)
    local ready = C.mp_wire_ready(w)
    C.mp_wire_free(w)
    ffi.C.close(b)
    return rc, ffi.string(err.message), ready
  end

  it("accepts a later version that accepts ours", function()
    local rc, _, ready = answer_to(hello(3, 2))
    assert.equal(0, rc)
    assert.is_true(ready)
  end)

  it("refuses versions that do not meet, naming both", function()
    local rc, why = answer_to(hello(4, 3))
    assert.equal(C.MP_EVERSION, rc)
    assert.equal("the peer speaks wire version 4 (accepts 3 and later), this process 2 (accepts 2 and later)", why)
    rc = answer_to(hello(1, 1))
    assert.equal(C.MP_EVERSION, rc)
  end)

  it("refuses a later version's longer hello by its version, not by its length", function()
    local bytes = hello(9, 9) .. "more"
    bytes = string.char(bytes:byte(1) + 4) .. bytes:sub(2)
    assert.equal(C.MP_EVERSION, (answer_to(bytes)))
  end)

  it("refuses who is no moonpool process", function()
    for _, bytes in ipairs { "GET / HTTP/1.1\r\nHost: x\r\n\r\n", hello(1, 1, 42), ("\0"):rep(64), ("\255"):rep(64) } do
      local rc, why = answer_to(bytes)
      assert.equal(C.MP_EPROTO, rc)
      assert.equal("the peer is no moonpool process", why)
    end
  end)

  it("refuses a second hello", function()
    local rc, why = answer_to(hello(2, 2) .. hello(2, 2))
    assert.equal(C.MP_EPROTO, rc)
    assert.matches("said hello twice$", why)
  end)

  it("listens and connects by path, and says when a path is too long", function()
    local path, fd, other, third = os.tmpname(), ffi.new "int[1]", ffi.new "int[1]", ffi.new "int[1]"
    os.remove(path)
    assert.equal(0, C.mp_wire_listen(path, 8, fd, err), ffi.string(err.message))
    assert.equal(C.MP_EAGAIN, C.mp_wire_accept(fd[0], other, err))
    assert.equal(0, C.mp_wire_connect(path, other, err), ffi.string(err.message))
    assert.equal(0, C.mp_wire_accept(fd[0], third, err), ffi.string(err.message))
    for _, f in ipairs { fd, other, third } do
      ffi.C.close(f[0])
    end
    assert.equal(C.MP_ECLOSED, C.mp_wire_connect(path, other, err))
    assert.matches("^cannot connect to .*: Connection refused$", ffi.string(err.message))
    assert.equal(0, C.mp_wire_listen(path, 8, fd, err)) -- the stale socket is no obstacle
    ffi.C.close(fd[0])
    os.remove(path)
    assert.equal(C.MP_EINVAL, C.mp_wire_connect(("x"):rep(108), other, err))
    assert.matches("a Unix socket's path has 1 to 107 bytes, this one 108$", ffi.string(err.message))
  end)
end)
