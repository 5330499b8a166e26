--- `moonpool run` from outside: what it prints where, its messages and exit codes.
local server = require "spec.support.server"
local tiny = require "spec.support.tiny"
local ffi = require "ffi"

local dir, model
setup(function()
  dir = ffi.string(ffi.C.mkdtemp(ffi.cast("char *", (os.getenv "TMPDIR" or "/tmp") .. "/mpr.XXXXXX")))
  model = dir .. "/tiny.gguf"
  tiny.write(model)
  tiny.write(dir .. "/endless.gguf", { endless = true, context = 1000000 })
end)
teardown(function()
  for _, name in ipairs { "tiny.gguf", "endless.gguf", "out", "err", "in" } do
    os.remove(dir .. "/" .. name)
  end
  os.remove(dir)
end)

local function read_file(name)
  local f = io.open(dir .. "/" .. name, "rb")
  local text = f and f:read "*a" or ""
  if f then
    f:close()
  end
  return text
end

--- Runs with shell-quoted arguments; stdout, stderr, exit code.
local function run(arguments, input)
  local f = assert(io.open(dir .. "/in", "wb"))
  f:write(input or "")
  f:close()
  local command = ("env -u LD_PRELOAD ASAN_OPTIONS=detect_leaks=1 MOONPOOL_MODELS=%s %s run %s <%s/in >%s/out 2>%s/err; echo $?"):format(dir, server.binary, arguments, dir, dir, dir)
  local pipe = assert(io.popen(command))
  local code = tonumber(pipe:read "*l")
  pipe:close()
  return read_file "out", read_file "err", code
end

describe("moonpool run", function()
  it("answers on standard output, with figures on standard error", function()
    local out, err, code = run "--max-tokens 9 --raw --threads 1 tiny hello"
    assert.equal(0, code, err)
    assert.is_true(#out > 3)
    assert.equal("\n", out:sub(-1))
    assert.matches("^prompt: 5 tokens, [%d.]+ tokens/s; answer: %d+ tokens %(%a+%), [%d.]+ tokens/s; cpu: 1 thread, %w+, plain\n$", err)
  end)

  it("finds a model by path, by name, with and without .gguf, and gives the same each time", function()
    local first = run("--max-tokens 9 --raw " .. model .. " hello")
    assert.equal(first, (run "--max-tokens 9 --raw tiny.gguf hello"))
    assert.equal(first, (run "--max-tokens 9 --raw tiny hello"))
    assert.equal(first, (run("--max-tokens 9 --raw tiny -", "hello")))
    assert.equal(first, (run "--max-tokens 9 --raw --isa plain tiny hello"))
  end)

  it("puts the prompt into the model's chat template unless told not to", function()
    local _, err = run "--max-tokens 0 tiny hello"
    assert.matches("^prompt: 24 tokens", err)
    _, err = run "--max-tokens 0 --system 'be brief' tiny hello"
    assert.matches("^prompt: 42 tokens", err)
    _, err = run "--max-tokens 0 --raw tiny '<|im_start|>'"
    assert.matches("^prompt: 12 tokens", err)
  end)

  it("samples by seed", function()
    local a = run "--max-tokens 20 --raw --temperature 1 --seed 1 tiny hello"
    assert.equal(a, (run "--max-tokens 20 --raw --temperature 1 --seed 1 tiny hello"))
    assert.are_not.equal(a, (run "--max-tokens 20 --raw --temperature 1 --seed 2 tiny hello"))
    assert.are_not.equal(a, (run "--max-tokens 20 --raw tiny hello"))
    assert.equal((run "--max-tokens 20 --raw tiny hello"), (run "--max-tokens 20 --raw --temperature 1 --top-k 1 --top-p 0.5 --min-p 0.1 tiny hello"))
  end)

  it("says what is wrong with its command line, exit 2", function()
    for arguments, expected in pairs {
      [""] = "which model?", ["tiny"] = "what prompt? ('-' reads it from standard input)", ["tiny a b"] = "one prompt only: quote it ('b' is too much)",
      ["--what tiny a"] = "no option '--what'", ["tiny a --seed"] = "--seed needs a value",
      ["--max-tokens x tiny a"] = "--max-tokens: 'x' is no number in its range", ["--temperature nan tiny a"] = "--temperature: 'nan' is no number in its range",
      ["--top-p 2 tiny a"] = "--top-p: '2' is no number in its range", ["--threads 0 tiny a"] = "--threads: '0' is no number in its range",
      ["--raw --system x tiny a"] = "--system has no place in a --raw prompt",
    } do
      local out, err, code = run(arguments)
      assert.same({ "", 2, "moonpool run: " .. expected }, { out, code, err:match "[^\n]*" })
    end
  end)

  it("says what is wrong with the model or the prompt, exit 2", function()
    local _, err, code = run "nothere a"
    assert.equal(2, code)
    assert.matches("^moonpool run: .*nothere", err)
    _, err, code = run "--raw tiny ''"
    assert.same({ 2, "moonpool run: the prompt is empty\n" }, { code, err })
    _, err, code = run("--raw tiny -", ("x"):rep(300))
    assert.matches("^moonpool run: the prompt has 300 tokens, the model's context holds 256\n$", err)
    assert.is_true(code ~= 0)
    _, err, code = run "--context 300 tiny a"
    assert.equal(2, code)
    assert.matches("a context of 300 was asked for, .*256", err)
    _, err, code = run "--device tpu tiny a"
    assert.same({ 2, "moonpool run: no device is called 'tpu'\n" }, { code, err })
    _, _, code = run "--isa z80 tiny a"
    assert.equal(2, code)
  end)

  it("ends at Ctrl-C, with what it has, exit 130", function()
    for _, name in ipairs { "out", "err" } do
      os.remove(dir .. "/" .. name)
    end
    local pid = server.spawn({ server.binary, "run", "--raw", "--max-tokens", "900000", "--context", "1000000", "--threads", "1",
      dir .. "/endless.gguf", "hello" }, dir .. "/out")
    server.until_true("it says something", function()
      return #read_file "out" > 20
    end)
    ffi.C.kill(pid, 2)
    local status = ffi.new "int[1]"
    server.until_true("it ends", function()
      return ffi.C.waitpid(pid, status, 1) == pid
    end)
    assert.equal(130, math.floor(status[0] / 256))
    assert.matches("\nprompt: 5 tokens, .*; answer: %d+ tokens %(cancelled%)", read_file "out")
  end)

  it("is quiet about a reader that leaves", function()
    local pipe = io.popen(("env -u LD_PRELOAD %s run --raw --max-tokens 900000 --context 1000000 --threads 1 %s/endless.gguf hello 2>%s/err | head -c 10 | wc -c"):format(server.binary, dir, dir))
    assert.equal(10, tonumber(pipe:read "*a"))
    pipe:close()
    server.until_true("it ends", function()
      return read_file("err"):find("(cancelled)", 1, true)
    end)
  end)

  it("says that the answer could not be written, exit 1; so does every command", function()
    for _, arguments in ipairs { "run --raw --max-tokens 4 tiny hello", "inspect tiny", "tokenize tiny hello", "help", "version" } do
      local pipe = io.popen(("env -u LD_PRELOAD MOONPOOL_MODELS=%s %s %s 2>&1 >/dev/full; echo $?"):format(dir, server.binary, arguments))
      local text = pipe:read "*a"
      pipe:close()
      assert.matches("moonpool %l+: cannot write the answer: No space left on device\n1\n$", text)
    end
  end)
end)
