--- ./dev, the front door: what it says when something is missing or wrong. That it installs, builds and serves on a bare machine
--- is tried by hand (spec/bench/RESULTS.md says how and when); here, what can be seen without changing the machine.
local function run(command)
  local pipe = assert(io.popen("(" .. command .. ") 2>&1; echo \"exit $?\""))
  local text = pipe:read "*a"
  pipe:close()
  local output, code = text:match "^(.*)exit (%d+)\n$"
  return tonumber(code), output
end

local function temporary()
  local path = os.tmpname()
  os.remove(path)
  assert(run("mkdir " .. path) == 0)
  return path
end

describe("./dev", function()
  it("lists its verbs, and refuses others with exit 2", function()
    local code, text = run "./dev help"
    assert.equal(0, code)
    for _, verb in ipairs { "serve", "build", "test", "fetch", "fmt", "bench", "fuzz", "soak", "help" } do
      assert.truthy(text:find("\n./dev " .. verb, 1, true) or text:find("./dev " .. verb, 1, true) == 1, verb)
    end
    code, text = run "./dev sevre"
    assert.equal(2, code)
    assert.truthy(text:find("dev: no such command: sevre", 1, true))
  end)

  it("works from another folder", function()
    assert.equal(0, (run '(dev=$PWD/dev; cd / && "$dev" help)'))
  end)

  it("names what a verb does not know", function()
    for command, message in pairs {
      ["build --release"] = "dev: build: unknown option --release",
      ["test --msan"] = "dev: test: unknown option --msan",
      ["test spec/unit/none_spec.lua"] = "dev: test: no such spec: spec/unit/none_spec.lua",
      ["fmt --all"] = "dev: fmt: unknown option --all",
    } do
      local code, text = run("./dev " .. command)
      assert.equal(1, code)
      assert.truthy(text:find(message, 1, true), text)
    end
    local code, text = run "./dev fuzz nothing 1"
    assert.equal(2, code)
    assert.truthy(text:find("usage: ./dev fuzz NAME SECONDS", 1, true))
    code, text = run "./dev bench nothing"
    assert.equal(2, code)
    assert.truthy(text:find("usage: ./dev bench NAME", 1, true))
    assert.truthy(text:find("\n  run\n", 1, true))
  end)

  it("says what is wrong with a file that is not the model, and leaves it alone", function()
    local folder = temporary()
    assert(run("echo nonsense > " .. folder .. "/smollm2-135m-instruct.gguf") == 0)
    local code, text = run("MOONPOOL_MODELS=" .. folder .. " ./dev fetch")
    assert.equal(1, code)
    assert.truthy(text:find(folder .. "/smollm2-135m-instruct.gguf is not the file it should be: sha256 is ", 1, true), text)
    assert.truthy(text:find("Remove it and run ./dev fetch again.", 1, true))
    assert.equal("nonsense\n", select(2, run("cat " .. folder .. "/*")))
    assert(run("rm -r " .. folder) == 0)
  end)

  it("is content, and quiet, with the right one", function()
    local file = io.open((os.getenv "MOONPOOL_MODELS" or "models") .. "/smollm2-135m-instruct.gguf")
    if not file then
      return pending "the model is not there: ./dev fetch"
    end
    file:close()
    assert.same({ 0, "" }, { run "./dev fetch" })
  end)

  -- A PATH with the shell's own tools only stands for a machine with nothing on it.
  it("names every missing package when it can install none", function()
    local folder = temporary()
    for _, tool in ipairs { "bash", "readlink", "dirname", "nproc", "id", "env", "mkdir", "cat", "tail", "rm" } do
      assert(run(("ln -s $(command -v %s) %s/"):format(tool, folder)) == 0)
    end
    local code, text = run(("PATH=%s %s/bash ./dev build"):format(folder, folder))
    assert.equal(1, code)
    assert.truthy(text:find("dev: these are missing, and there is no apt-get to install them (names as in Debian 12): ", 1, true), text)
    for _, name in ipairs { "gcc", "cmake", "ninja-build", "pkg-config", "libluajit2-5.1-dev", "libuv1-dev", "libpcre2-dev" } do
      assert.truthy(text:find(" " .. name, 1, true), name)
    end

    assert(run(("printf '#!/bin/sh\\nexit 0\\n' > %s/apt-get && printf '#!/bin/sh\\necho 1000\\n' > %s/user && chmod +x %s/apt-get %s/user"
      .. " && rm %s/id && mv %s/user %s/id"):format(folder, folder, folder, folder, folder, folder, folder)) == 0)
    code, text = run(("PATH=%s %s/bash ./dev build"):format(folder, folder))
    assert.equal(1, code)
    assert.truthy(text:find("Become root, or install sudo, and run ./dev again", 1, true), text)
    assert(run("rm -r " .. folder) == 0)
  end)
end)
