--- gpu/fake: late completion, scripts, failures on cue, and that it sees what its caller does wrong.
local gpu = require "spec.support.gpu"
local ffi = gpu.ffi
local C = require "spec.support.ffi"("gpu/fake/fake.h")
local LAST = -2147483648 -- MP_TOK_LAST
local EAGAIN, EDEVICE, EINVAL, ENOMEM = -11, -19, -1, -2

--- A plan with a kv group and logits over 1000 tokens; the fake looks at nothing else.
local function small_plan()
  local p = gpu.plan(256)
  local random = gpu.random(1)
  local kv = p:kv { layers = 1, heads = 1, dim_k = 16, dim_v = 16 }
  local w = p:weight("BOTH", gpu.weight(random, gpu.types.F32, 16, 1000))
  local x = p:node("embed", {}, { n = 16 }, nil, { w })
  p:node("kv_put", { x, x }, nil, { kv = kv })
  x = p:node("attn", { x }, { n = 16 }, { kv = kv, heads = 1, scale = 0.25 })
  x = p:node("gather", { x }, { n = 16, rows = "OUT" })
  p:output(p:node("linear", { x }, { n = 1000, rows = "OUT" }, nil, { w }), "logits")
  return p
end

local function open(spec)
  local dev = gpu.open("fake", spec)
  return dev, dev:build(small_plan(), { max_tok = 64, max_pages = 16 })
end

local function text(fn, dev)
  local b = ffi.new "struct mp_buf"
  local n = fn(dev.c, b)
  local s = ffi.string(b.data, b.len)
  C.mp_buf_free(b)
  return s, n
end

local function violations(dev)
  local s, n = text(C.mp_fake_violations, dev)
  return n, s
end

local function poll(dev, ticket, timeout)
  local done = ffi.new "struct mp_done"
  return dev.ops.wait(dev.c, ticket, timeout or 0, done), done
end

--- Prompt, then n tokens read back one by one; returns the sampled ids.
local function generate(e, prompt, n, pages, slot)
  local ids, tok, pos = {}, prompt, 0
  e.ops.slot_set(e.c, slot or 0, nil, 0)
  for _ = 1, n do
    e:forward { { tok = tok, pos = pos, pages = pages, slot = slot } }
    pos = pos + #tok
    local got = e:sample { { row = 0, slot = slot or 0, index = pos } }
    ids[#ids + 1] = got[0].id
    tok = { LAST }
  end
  return ids
end

describe("the fake device", function()
  it("gives tokens that depend on the history alone", function()
    local dev, e = open "seed=3"
    local a = generate(e, { 1, 2, 3 }, 5, { 4, 5 })
    local b = generate(e, { 1, 2, 3 }, 5, { 9, 1 }, 3)
    assert.same(a, b)
    assert.are_not.same(a, generate(e, { 1, 2, 4 }, 5, { 4, 5 }))
    -- The same text in a batch, its prompt in two parts.
    e:forward { { tok = { 1, 2 }, pos = 0, pages = { 6 }, slot = 1 }, { tok = { 7 }, pos = 0, pages = { 7 }, slot = 2 } }
    e:forward { { tok = { 3 }, pos = 2, pages = { 6 }, slot = 1 } }
    assert.equal(a[1], e:sample({ { row = 0, slot = 1, index = 3 } })[0].id)
    assert.equal(0, (violations(dev)))
    dev:close()
  end)

  it("follows a script, or repeats the prompt", function()
    local dev, e = open "script=12:7:2"
    assert.same({ 12, 7, 2, 12 }, generate(e, { 1, 2 }, 4, { 0 }))
    assert.same({ 12, 7 }, generate(e, { 1, 2 }, 2, { 0 }))
    dev:close()
    dev, e = open "script=echo"
    assert.same({ 5, 6, 7, 5 }, generate(e, { 5, 6, 7 }, 4, { 0 }))
    dev:close()
  end)

  it("completes late: not before its time, and only when waited for", function()
    local dev, e = open "time=virtual,delay_ms=5,tok_us=1000"
    local step = gpu.step(e, { { tok = { 1, 2, 3 }, pos = 0, pages = { 0 } } })
    local _, first = e:try_forward(step)
    local _, second = e:try_forward(gpu.step(e, { { tok = { 4 }, pos = 3, pages = { 0 } } }))
    assert.equal(EAGAIN, (poll(dev, first)))
    C.mp_fake_advance(dev.c, 7999999)
    assert.equal(EAGAIN, (poll(dev, first)))
    C.mp_fake_advance(dev.c, 1)
    local rc, done = poll(dev, first)
    assert.equal(0, rc)
    assert.equal(8000000, tonumber(done.busy_ns))
    assert.equal(EAGAIN, (poll(dev, second, 5999999)))
    assert.equal(0, (poll(dev, second, 1)))
    assert.equal(14000000, tonumber(C.mp_fake_now(dev.c)))
    assert.matches("^forward ticket=1 exec=1 tok=3 out=1 | slot=0 pos=0 n=3\nforward ticket=2 exec=1 tok=1 out=1 | slot=0 pos=3 n=1\n" ..
      "done ticket=1\ndone ticket=2\n$", (text(C.mp_fake_log, dev)))
    assert.equal(0, (violations(dev)))
    dev:close()
  end)

  it("resolves LAST by the sample in flight", function()
    local dev, e = open "script=41:42,time=virtual,delay_ms=1"
    local step = gpu.step(e, { { tok = { 1 }, pos = 0, pages = { 0 } } })
    e:try_forward(step)
    local pick, ticket = ffi.new("struct mp_pick[1]", { gpu.pick { row = 0, slot = 0, index = 1 } }), ffi.new "mp_ticket[1]"
    gpu.ok(dev.ops.sample(e.c, pick, 1, ticket, gpu.err()))
    step = gpu.step(e, { { tok = { LAST }, pos = 1, pages = { 0 } } })
    assert.equal(0, (e:try_forward(step)))
    pick[0].index = 2
    gpu.ok(dev.ops.sample(e.c, pick, 1, ticket, gpu.err()))
    local done = e:wait(ticket[0])
    assert.equal(42, done.got[0].id)
    assert.equal(0, (violations(dev)))
    dev:close()
  end)

  it("takes masks and fills log-probs", function()
    local dev, e = open "script=5"
    local allow = ffi.new("uint32_t[32]")
    allow[1] = 2 ^ 3 -- 35 alone
    e:forward { { tok = { 1 }, pos = 0, pages = { 0 } } }
    local got = e:sample { { row = 0, slot = 0, index = 1, allow = allow, top_n = 2 } }
    assert.equal(35, got[0].id)
    assert.equal(2, got[0].n_top)
    assert.equal(-0.25, got[0].top[1].logprob)
    dev:close()
  end)

  it("fails on cue", function()
    local function forward(e, pos)
      return e:try_forward((gpu.step(e, { { tok = { 1 }, pos = pos, pages = { 0 } } })))
    end
    local dev, e = open "fail_forward=2"
    assert.equal(0, (forward(e, 0)))
    local rc, message = forward(e, 1)
    assert.equal(EDEVICE, rc)
    assert.equal("fake: forward 2 fails, as told", message)
    assert.equal(0, (forward(e, 1)))
    dev:close()

    dev, e = open "fail_ticket=1"
    local _, ticket = forward(e, 0)
    local _, done = poll(dev, ticket)
    assert.equal(EDEVICE, done.rc)
    assert.equal("fake: ticket 1 fails, as told", ffi.string(done.err.message))
    dev:close()

    dev, e = open "bad_sample=1"
    e:forward { { tok = { 1 }, pos = 0, pages = { 0 } } }
    local got = e:sample { { row = 0, slot = 0, index = 1 } }
    assert.equal(1, got[0].bad)
    assert.equal(-1, got[0].id)
    dev:close()

    dev = gpu.open("fake", "fail_commit=2,memory=8192")
    local m = dev:memory(65536)
    assert.equal(0, dev.ops.mem_commit(m, 0, 4096, true, gpu.err()))
    assert.equal(ENOMEM, dev.ops.mem_commit(m, 4096, 4096, true, gpu.err()))
    assert.equal("fake: commit 2 fails, as told", gpu.message())
    assert.equal(0, dev.ops.mem_commit(m, 4096, 4096, true, gpu.err()))
    assert.equal(ENOMEM, dev.ops.mem_commit(m, 8192, 4096, true, gpu.err()))
    assert.equal("fake: 4096 bytes more than the 8192 there are", gpu.message())
    assert.equal(0, dev.ops.mem_commit(m, 0, 4096, false, gpu.err()))
    assert.equal(0, dev.ops.mem_commit(m, 8192, 4096, true, gpu.err()))
    dev:close()
  end)

  it("sees what its caller does wrong", function()
    local function broken(act, pattern)
      local dev, e = open "time=virtual,delay_ms=1"
      act(dev, e)
      local n, what = violations(dev)
      assert.is_true(n > 0, "expected a violation: " .. pattern)
      assert.matches(pattern, what)
      dev:close()
    end
    local function issue(e, seq)
      local rc, ticket = e:try_forward((gpu.step(e, { seq })))
      return rc == 0 and ticket
    end
    broken(function(dev, e)
      issue(e, { tok = { 1 }, pos = 0, pages = { 2 } })
      dev.ops.mem_commit(e.kv[0], 2 * 4096, 4096, false, nil)
    end, "^page 2 of kv group 0 was given back while ticket 1 names it$")
    broken(function(_, e)
      issue(e, { tok = { 1 }, pos = 0, pages = { 2 }, slot = 0 })
      issue(e, { tok = { 1 }, pos = 0, pages = { 2 }, slot = 1 })
    end, "^page 2 is written by slot 1 while ticket 1 has it for slot 0$")
    broken(function(_, e)
      e:forward { { tok = { 1 }, pos = 0, pages = { 2 } } }
      e:forward { { tok = { 1 }, pos = 1, pages = { 3 } } }
    end, "slot 0: its page does not hold position 0$")
    broken(function(_, e)
      issue(e, { tok = { 1 }, pos = 0, pages = { 2 } })
      e.ops.slot_set(e.c, 0, nil, 0)
    end, "^slot 0 begins anew while 1 pending tickets name it$")
    broken(function(dev)
      poll(dev, 7)
    end, "^ticket 7 is waited for, but not pending$")
    broken(function(_, e)
      issue(e, { tok = { 1000 }, pos = 0, pages = { 2 } })
    end, "^a bad step: step: sequence 0: token 1000; there are 1000$")
  end)

  it("refuses options that it does not know", function()
    local rc, message = gpu.open_error("fake", "delay=3")
    assert.equal(EINVAL, rc)
    assert.equal("fake: unknown key or value 'delay=3' (gpu/fake/README.md lists them)", message)
    rc, message = gpu.open_error("fake", "delay_ms=x")
    assert.equal(EINVAL, rc)
    assert.equal("fake: delay_ms=x: a whole number is wanted", message)
    rc, message = gpu.open_error("fake", "script=1:a")
    assert.equal(EINVAL, rc)
    assert.equal("fake: script: 'echo', or up to 4096 token ids as 1:2:3", message)
  end)
end)
