--- core/engine/loop.h on the scripted device, in virtual time: what one request gets, what many get, and a random test of all.
local loop = require "spec.support.loop"
local C, ffi = loop.C, loop.ffi
jit.off(true, true)

local function prompt(n, from)
  local ids = {}
  for i = 1, n do
    ids[i] = ((from or 1) * 131 + i * 7) % loop.n_vocab
  end
  return ids
end

--- The reference: what the device samples for this prompt by itself, and what becomes of it by eog, stops and max_tokens.
local alone
local function expected(t)
  if not alone then
    local dev = loop.gpu.open("fake", "time=virtual")
    alone = dev:build(loop.plan(), { max_tok = 128, max_slot = 1, max_pages = 32 })
  end
  local pages = {}
  for i = 0, 31 do
    pages[i + 1] = i
  end
  local ids = loop.ids_alone(alone, t.prompt, t.max_tokens, t.seed, 0, pages)
  local text, made, finish, stop = "", 0, "length", ""
  for i = 1, #ids do
    made = i
    if loop.is_eog(ids[i]) and t.ignore_eog ~= 1 then
      finish = "stop"
      break
    end
    local before = #text
    text = text .. loop.pieces[ids[i]]
    for cut = before + 1, #text do -- the stop that ends first; the longest of those
      for _, s in ipairs(t.stops or {}) do
        if #s <= cut and text:sub(cut - #s + 1, cut) == s and #s > #stop then
          stop = s
        end
      end
      if stop ~= "" then
        text, finish = text:sub(1, cut - #stop), "stop"
        break
      end
    end
    if finish == "stop" then
      break
    end
  end
  local b = ffi.new "struct mp_buf"
  C.mp_utf8_clean(b, text, #text)
  text = b.len > 0 and ffi.string(b.data, b.len) or ""
  C.mp_buf_free(b)
  return { text = text, made = made, finish = finish, stop = stop }
end

describe("the loop", function()
  it("gives a request what the device gives it alone", function()
    local rig = loop.rig()
    local t = { prompt = prompt(5), max_tokens = 12, ignore_eog = 1 }
    local tag = rig:submit(t)
    local r = rig:run()[tag]
    local want = expected(t)
    assert.equal(want.text, r.text)
    assert.equal(12, r.made)
    assert.equal("length", r.finish)
    assert.equal(5, r.prompt_tokens)
    assert.is_true(r.prefill_ns > 0 and r.prefill_ns < r.device_ns)
    assert.is_true(r.first_ns > 0 and r.total_ns > r.first_ns)
    assert.equal(tonumber(rig:stats().busy_ns), r.device_ns)
    rig:close()
  end)

  it("keeps two steps in flight and reads tokens one step late", function()
    local rig = loop.rig()
    rig:submit { prompt = prompt(5), max_tokens = 12, ignore_eog = 1 }
    rig:run()
    local open, most = 0, 0
    for _, entry in ipairs(rig:log()) do
      open = open + (entry.kind == "forward" and 1 or 0)
      open = open - (entry.kind == "done" and 0.5 or 0) -- a forward and its sample are done one after the other
      most = math.max(most, open)
    end
    assert.equal(2, most)
    assert.equal(2, rig:stats().most_in_flight)
    assert.is_true(rig:stats().last_tokens >= 10)
    rig:close()
  end)

  it("batches: decode tokens first, prompts in chunks beside them", function()
    local rig = loop.rig { conf = { chunk = 7 } }
    local first = rig:submit { prompt = prompt(3), max_tokens = 30, ignore_eog = 1 }
    for _ = 1, 6 do
      rig:turn()
    end
    local results = {}
    local second = rig:submit { prompt = prompt(20, 2), max_tokens = 4, ignore_eog = 1 }
    rig:run(results)
    assert.equal(4, results[second].made)
    assert.equal("length", results[first].finish)
    local chunks = {}
    for _, entry in ipairs(rig:log()) do
      if entry.kind == "forward" and #entry.slots == 2 then
        assert.equal(1, entry.slots[1].n) -- the decode row
        chunks[#chunks + 1] = entry.slots[2].n
      end
    end
    assert.same({ 7, 7, 6 }, { chunks[1], chunks[2], chunks[3] })
    rig:close()
  end)

  it("ends at a token that ends the text, which counts but shows nothing", function()
    local rig, from = loop.rig(), 1
    local t, want
    repeat -- a prompt whose answer ends by itself
      t = { prompt = prompt(4, from), max_tokens = 60 }
      want, from = expected(t), from + 1
    until want.finish == "stop"
    local tag = rig:submit(t)
    local r = rig:run()[tag]
    assert.same({ want.text, want.made, "stop", "" }, { r.text, r.made, r.finish, r.stop })
    rig:close()
  end)

  it("prefills only when no token is wanted", function()
    local rig = loop.rig()
    local tag = rig:submit { prompt = prompt(40), max_tokens = 0 }
    local r = rig:run()[tag]
    assert.same({ "", 0, "length", 40 }, { r.text, r.made, r.finish, r.prompt_tokens })
    assert.is_true(r.device_ns > 0)
    rig:close()
  end)

  it("cuts the answer to what the context leaves", function()
    local rig = loop.rig { context = 48 }
    local tag = rig:submit { prompt = prompt(40), max_tokens = 4000000000, ignore_eog = 1 }
    local r = rig:run()[tag]
    assert.same({ 8, "length" }, { r.made, r.finish })
    rig:close()
  end)

  it("refuses what cannot be answered, and says why", function()
    local rig = loop.rig { context = 48 }
    local _, code, why = rig:submit { prompt = {}, max_tokens = 1 }
    assert.same({ C.MP_EINVAL, "the prompt is empty" }, { code, why })
    _, code, why = rig:submit { prompt = prompt(49), max_tokens = 1 }
    assert.same({ C.MP_ECONTEXT, "the prompt has 49 tokens, the model's context holds 48" }, { code, why })
    _, code, why = rig:submit { prompt = prompt(48), max_tokens = 1 }
    assert.same({ C.MP_ECONTEXT, "the prompt has 48 tokens, the model's context holds 48: no room is left for an answer" }, { code, why })
    _, code, why = rig:submit { prompt = { 3, 1000 }, max_tokens = 1 }
    assert.same({ C.MP_EINVAL, "token 1 of the prompt is 1000: the vocabulary has 1000" }, { code, why })
    assert.is_number((rig:submit { prompt = prompt(48), max_tokens = 0 }))
    rig:run()
    rig:close()
  end)

  it("refuses a request that needs more pages than there are", function()
    local rig = loop.rig { lim = { max_pages = 3 } }
    local tag = rig:submit { prompt = prompt(40), max_tokens = 20 }
    local ok = rig:submit { prompt = prompt(40), max_tokens = 8 }
    local results = rig:run()
    assert.same({ "limit_exceeded", "the request needs 4 pages of KV memory, the model has 3" }, { results[tag].code, results[tag].message })
    assert.equal("length", results[ok].finish)
    rig:close()
  end)

  it("takes the higher priority first, and equals in order", function()
    local rig = loop.rig { lim = { max_slot = 1, max_seq = 1 } }
    local tags = {}
    for i, priority in ipairs { 0, 0, 5, 5, -1 } do
      tags[i] = rig:submit { prompt = prompt(3, i), max_tokens = 1, priority = priority, ignore_eog = 1 }
    end
    local order = {}
    repeat
      local more = rig:turn()
      for _, e in ipairs(rig:events()) do
        order[#order + 1] = e.kind == "done" and e.tag or nil
      end
    until not more
    assert.same({ tags[3], tags[4], tags[1], tags[2], tags[5] }, order)
    rig:close()
  end)

  it("issues no step with a sequence after its cancel, and bills the one under way", function()
    local rig = loop.rig()
    local tag, seq = rig:submit { prompt = prompt(5), max_tokens = 100, ignore_eog = 1 }
    local results = {}
    while not (results[tag] and results[tag].made >= 3) do
      rig:turn()
      for _, e in ipairs(rig:events()) do
        loop.collect(results, e)
      end
    end
    rig:turn(0)
    assert.is_true(rig:stats().in_flight > 0)
    rig:log()
    local made = results[tag].made
    C.mp_seq_cancel(seq)
    rig:run(results)
    for _, entry in ipairs(rig:log()) do
      assert.is_not.equal("forward", entry.kind)
    end
    assert.equal("cancelled", results[tag].finish)
    assert.equal(made, results[tag].made)
    assert.equal(tonumber(rig:stats().busy_ns), results[tag].device_ns)
    rig:close()
  end)

  it("skips a sequence whose reader is slow, and keeps its pages", function()
    local rig = loop.rig()
    local slow, seq = rig:submit { prompt = prompt(5), max_tokens = 100, ignore_eog = 1, window = 10 }
    local fast = rig:submit { prompt = prompt(5, 2), max_tokens = 100, ignore_eog = 1 }
    local results = rig:run()
    assert.equal("length", results[fast].finish)
    assert.is_nil(results[slow].ended)
    assert.is_true(#results[slow].text > 10 and #results[slow].text < 20)
    assert.is_true(rig:replica_stats().pages_used > 0)
    assert.is_false(rig:turn())
    while not results[slow].ended do
      local before = #results[slow].text
      C.mp_seq_window(seq, before) -- more than was taken since is no harm
      rig:run(results)
      assert.is_true(results[slow].ended or #results[slow].text > before)
    end
    assert.equal(100, results[slow].made)
    rig:close()
  end)

  it("ends a request at its deadline, waiting or running", function()
    local rig = loop.rig { lim = { max_slot = 1, max_seq = 1 } }
    local running = rig:submit { prompt = prompt(5), max_tokens = 400, ignore_eog = 1, deadline_ns = 100e6 }
    local waiting = rig:submit { prompt = prompt(5), max_tokens = 4, ignore_eog = 1, deadline_ns = 50e6 }
    local results = rig:run()
    assert.equal("timeout", results[running].code)
    assert.matches("^the request's deadline passed after 0%.1 s$", results[running].message)
    assert.is_true(results[running].made > 5)
    assert.equal("timeout", results[waiting].code)
    assert.equal(0, results[waiting].made)
    rig:close()
  end)

  it("ends the request whose logits are bad, and no other", function()
    local rig = loop.rig { device = "bad_sample=5" }
    local tags = {}
    for i = 1, 3 do
      tags[i] = rig:submit { prompt = prompt(5, i), max_tokens = 6, ignore_eog = 1 }
    end
    local results, failed = rig:run(), 0
    for i, tag in ipairs(tags) do
      if results[tag].code then
        failed = failed + 1
        assert.equal("bad_logits", results[tag].code)
        assert.matches("^the model's output is not a number at token %d+$", results[tag].message)
      else
        assert.equal(expected({ prompt = prompt(5, i), max_tokens = 6, ignore_eog = 1 }).text, results[tag].text)
      end
    end
    assert.equal(1, failed)
    rig:close()
  end)

  for what, device in pairs {
    ["a forward"] = "fail_forward=4", ["a sample"] = "fail_sample=4", ["a step under way"] = "fail_ticket=6",
  } do
    it("ends the requests of " .. what .. " that fails, and goes on with others", function()
      local rig = loop.rig { device = device }
      local first = rig:submit { prompt = prompt(5), max_tokens = 20, ignore_eog = 1 }
      local results = rig:run()
      assert.equal("device_error", results[first].code)
      assert.matches("fake: .* fails", results[first].message)
      local t = { prompt = prompt(5), max_tokens = 20, ignore_eog = 1 }
      local second = rig:submit(t)
      rig:run(results)
      assert.equal(expected(t).text, results[second].text)
      assert.equal(tonumber(rig:stats().busy_ns), results[first].device_ns + results[second].device_ns)
      rig:close()
    end)
  end

  it("ends a request that finds no memory for a page, and goes on with others", function()
    local rig = loop.rig()
    rig:close()
    -- The rig's own weights and scratch take two commits.
    rig = loop.rig { device = "fail_commit=4" }
    local first = rig:submit { prompt = prompt(5), max_tokens = 40, ignore_eog = 1 }
    local results = rig:run()
    assert.equal("out_of_memory", results[first].code)
    assert.matches("^no memory for another KV page: fake: commit 4 fails, as told$", results[first].message)
    local second = rig:submit { prompt = prompt(5), max_tokens = 40, ignore_eog = 1 }
    rig:run(results)
    assert.equal("length", results[second].finish)
    rig:close()
  end)

  it("gives free pages' memory back", function()
    local rig = loop.rig()
    rig:submit { prompt = prompt(50), max_tokens = 20, ignore_eog = 1 }
    rig:run()
    assert.is_true(tonumber(rig:replica_stats().kv_bytes) > 0)
    C.mp_replica_trim(rig.replica)
    assert.equal(0, tonumber(rig:replica_stats().kv_bytes))
    local t = { prompt = prompt(50, 3), max_tokens = 20, ignore_eog = 1 }
    local tag = rig:submit(t)
    assert.equal(expected(t).text, rig:run()[tag].text)
    rig:close()
  end)

  it("waits for memory beyond one context, which each replica has, and gives it back", function()
    local PAGE = 4096
    local rig = loop.rig { context = 64, lim = { max_seq_pages = 4, max_pages = 32 } }
    local other = rig:add_replica(rig.dev:build(loop.plan(), { max_tok = 64, max_seq = 8, max_slot = 8, max_pages = 32, max_seq_pages = 4, commit = false }), 64)
    C.mp_room_limit(rig.room, 5 * PAGE)
    for i = 1, 4 do
      rig:submit { prompt = prompt(40, i), max_tokens = 24, ignore_eog = 1 } -- four pages each
      rig:submit({ prompt = prompt(40, i), max_tokens = 24, ignore_eog = 1 }, other)
    end
    local results, most, beside = {}, 0, 0
    repeat
      local more = rig:turn()
      for _, e in ipairs(rig:events()) do
        loop.collect(results, e)
      end
      most = math.max(most, tonumber(C.mp_room_held(rig.room)))
      beside = math.max(beside, rig:replica_stats().running, rig:replica_stats(other).running)
    until not more
    assert.equal(4 * PAGE, most) -- one context more, for one of the two
    assert.equal(2, beside)
    for tag = 1, 8 do
      assert.equal("length", results[tag].finish)
    end
    C.mp_replica_trim(rig.replica)
    C.mp_replica_trim(other)
    assert.equal(0, tonumber(C.mp_room_held(rig.room)))
    C.mp_replica_free(other)
    rig:close()
  end)

  it("takes back what another keeps committed for nothing", function()
    local PAGE = 4096
    local rig = loop.rig { context = 64, lim = { max_seq_pages = 4, max_pages = 32 } }
    local other = rig:add_replica(rig.dev:build(loop.plan(), { max_tok = 64, max_seq = 8, max_slot = 8, max_pages = 32, max_seq_pages = 4, commit = false }), 64)
    C.mp_room_limit(rig.room, 4 * PAGE)
    local function two(replica)
      for i = 1, 2 do
        rig:submit({ prompt = prompt(40, i), max_tokens = 24, ignore_eog = 1 }, replica)
      end
      rig:run()
    end
    two(rig.replica)
    assert.equal(4 * PAGE, tonumber(rig:replica_stats().beyond)) -- nothing is reserved, all is still committed
    two(other)
    assert.equal(0, tonumber(rig:replica_stats().beyond))
    assert.equal(4 * PAGE, tonumber(rig:replica_stats(other).beyond))
    C.mp_replica_free(other)
    rig:close()
  end)

  it("runs fewer at once when told to, at once, and more again", function()
    local rig = loop.rig()
    local function most_of(n)
      C.mp_replica_most(rig.replica, n)
      for i = 1, 10 do
        rig:submit { prompt = prompt(3, i), max_tokens = 5, ignore_eog = 1 }
      end
      local most = 0
      repeat
        local more = rig:turn()
        rig:events()
        most = math.max(most, rig:replica_stats().slots_used)
      until not more
      return most
    end
    assert.equal(3, most_of(3))
    assert.equal(1, most_of(1))
    assert.equal(8, most_of(100))
    rig:close()
  end)

  it("shares the device between models by time, not by steps", function()
    local rig = loop.rig()
    local other = rig:add_replica(rig.dev:build(loop.plan(), { max_tok = 64, max_seq = 8, max_slot = 8, commit = false }))
    rig:submit { prompt = prompt(5), max_tokens = 400, ignore_eog = 1 }
    for i = 1, 6 do
      rig:submit({ prompt = prompt(50, i), max_tokens = 400, ignore_eog = 1 }, other)
    end
    for _ = 1, 300 do
      rig:turn()
      rig:events()
    end
    local a, b = tonumber(rig:replica_stats().device_ns), tonumber(rig:replica_stats(other).device_ns)
    assert.is_true(a / b > 0.9 and a / b < 1.1, ("%g against %g ms"):format(a / 1e6, b / 1e6))
    rig:run()
    C.mp_replica_free(other)
    rig:close()
  end)
end)

--- Everything at once. A round: a small machine, some dozens of requests arriving at random, some cancelled, some read slowly.
describe("the loop under random load", function()
  local seed = tonumber(os.getenv "MOONPOOL_SEED") or os.time()

  local function one_of(list)
    return list[math.random(#list)]
  end

  local function random_request()
    local t = { prompt = {}, max_tokens = one_of { 0, 1, 2, 7, 20, 40 }, priority = one_of { 0, 0, 0, 3 } }
    for i = 1, math.random(1, 60) do
      t.prompt[i] = math.random(0, loop.n_vocab - 1)
    end
    if math.random() < 0.5 then
      t.greedy, t.seed, t.temperature = 0, math.random(1, 1e6), 1
    end
    if math.random() < 0.5 then
      t.stops = {}
      for i = 1, math.random(1, 3) do
        t.stops[i] = one_of { "ab", "c", "dea", "aab", "eeee", "\239\191\189", "\226\130\172b" }
      end
    end
    t.window = math.random() < 0.3 and math.random(1, 12) or 0
    return t
  end

  --- After each turn: no issued step contains a slot whose sequence was cancelled.
  local function check_log(rig, banned)
    for _, entry in ipairs(rig:log()) do
      for _, s in ipairs(entry.slots) do
        local key = entry.exec and entry.exec * 100 + s.slot
        if entry.kind == "slot_set" then
          banned[key] = nil
        elseif entry.kind == "forward" then
          assert.is_nil(banned[key], entry.line)
        end
      end
    end
  end

  --- Two replicas on one device whose room is small: its limit moves, a load waits for it now and then.
  local function round(n, faulty)
    local PAGE, CONTEXT_PAGES = 4096, 8
    local rig = loop.rig {
      context = 16 * CONTEXT_PAGES,
      device = ("delay_us=%d,tok_us=%d%s"):format(one_of { 0, 100, 5000 }, one_of { 0, 50, 1000 },
        faulty and (",fail_ticket=%d,bad_sample=%d,fail_commit=%d"):format(math.random(3, 200), math.random(3, 200), math.random(4, 60)) or ""),
      lim = { max_slot = 6, max_seq = 6, max_pages = one_of { 8, 12, 40 }, max_seq_pages = CONTEXT_PAGES, max_tok = one_of { 8, 24, 64 } },
      conf = { chunk = one_of { 0, 1, 7 }, depth = one_of { 1, 2, 2 } },
    }
    local other = rig:add_replica(rig.dev:build(loop.plan(), { max_tok = 24, max_seq = 4, max_slot = 4, max_pages = 32,
      max_seq_pages = CONTEXT_PAGES, commit = false }), 16 * CONTEXT_PAGES)
    local asked, seqs, results, banned, cancelled = {}, {}, {}, {}, {}
    local left, idle = n, 0
    local load_waits, limit, held = false, one_of { 1, 3, 10, 20, 100 } * PAGE, 0
    C.mp_room_limit(rig.room, limit)
    local function change_room()
      if math.random() < 0.02 then
        limit = one_of { 1, 3, 10, 20, 100 } * PAGE
        C.mp_room_limit(rig.room, limit)
      end
      if math.random() < 0.05 then
        load_waits = not load_waits
        C.mp_room_wait(rig.room, load_waits)
      end
    end
    local function check_room()
      local now, sum = tonumber(C.mp_room_held(rig.room)), 0
      for _, replica in ipairs { rig.replica, other } do
        local s = rig:replica_stats(replica)
        local pages = math.max(s.pages_reserved, tonumber(s.kv_bytes) / PAGE)
        sum = sum + math.max(pages - CONTEXT_PAGES, 0) * PAGE
        assert.equal(math.max(pages - CONTEXT_PAGES, 0) * PAGE, tonumber(s.beyond))
      end
      assert.equal(sum, now)
      assert.is_true(now <= limit or now <= held, ("%d bytes held, %d before, the limit is %d"):format(now, held, limit))
      assert.is_true(now <= held or not load_waits)
      held = now
    end
    while left > 0 or next(seqs) do
      if left > 0 and math.random() < 0.4 then
        local t = random_request()
        local tag, seq = rig:submit(t, math.random() < 0.3 and other or nil)
        t.other = seq.rep == other
        asked[tag], seqs[tag], left = t, seq, left - 1
      end
      change_room()
      check_log(rig, banned)
      for tag, seq in pairs(seqs) do
        if math.random() < 0.01 then
          if seq.placed and seq.state ~= C.MP_SEQ_ENDED then
            banned[(asked[tag].other and 2 or 1) * 100 + seq.slot] = true
          end
          cancelled[tag] = seq.state ~= C.MP_SEQ_ENDED or cancelled[tag]
          C.mp_seq_cancel(seq)
        elseif asked[tag].window > 0 and (math.random() < 0.1 or idle > 3) then
          C.mp_seq_window(seq, math.random(1, 20))
        end
      end
      idle = rig:turn(one_of { 0, 0.1, 1000 }) and 0 or idle + 1
      check_room()
      for _, e in ipairs(rig:events()) do
        loop.collect(results, e)
        if e.kind ~= "tokens" then
          seqs[e.tag] = nil
        end
      end
      assert.is_true(idle < 1000, "the loop stands still")
    end
    local sum, failed = 0, 0
    for tag, t in pairs(asked) do
      local r, want = results[tag], expected(t)
      local id = ("seed %d, request %d"):format(seed, tag)
      sum = sum + r.device_ns
      if r.code or r.finish == "cancelled" then
        failed = failed + (r.code and 1 or 0)
        assert.is_true(r.code == nil or faulty or r.code == "limit_exceeded", id .. ": " .. tostring(r.message))
        assert.is_true(r.finish ~= "cancelled" or cancelled[tag], id)
        assert.equal(want.text:sub(1, #r.text), r.text, id)
        assert.is_true(r.made <= want.made, id)
      else
        assert.same({ want.text, want.made, want.finish, want.stop }, { r.text, r.made, r.finish, r.stop }, id)
      end
    end
    local stats = rig:stats()
    assert.equal(tonumber(stats.busy_ns), sum)
    C.mp_replica_free(other)
    rig:close()
    return stats, failed
  end

  it("answers each request exactly once, with what it gets alone, and ends with everything back", function()
    math.randomseed(seed)
    local steps, seqs, two, last = 0, 0, 0, 0
    for _ = 1, 25 do
      local stats = round(30, false)
      steps, seqs, last = steps + tonumber(stats.steps), seqs + tonumber(stats.seqs), last + tonumber(stats.last_tokens)
      two = two + (stats.most_in_flight == 2 and 1 or 0)
    end
    print(("seed %d: %d steps, %.1f sequences each, %d with a token of the step in flight"):format(seed, steps, seqs / steps, last))
    assert.is_true(two > 5 and last > 100 and seqs / steps > 1.5)
  end)

  it("does so when the device fails now and then", function()
    math.randomseed(seed + 1)
    local failed = 0
    for _ = 1, 15 do
      local _, n = round(25, true)
      failed = failed + n
    end
    assert.is_true(failed > 0)
  end)
end)
