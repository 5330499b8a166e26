--- Every fuzz target of spec/fuzz, for a moment: its seeds as they are, then a few thousand mutations, in whatever build the specs
--- run in (ASan finds what a plain build does not). `./dev fuzz NAME SECONDS` is the long form; and the driver itself is tried here.
local build = os.getenv "MOONPOOL_BUILD" or "build/release"
local runs = os.getenv "MOONPOOL_SOAK" and 200000 or 3000

local function run(command)
  local pipe = assert(io.popen(command .. " 2>&1; echo \"exit $?\""))
  local output, code = pipe:read("*a"):match "^(.*)exit (%d+)\n$"
  pipe:close()
  return tonumber(code), output
end

describe("the fuzz target", function()
  local _, list = run "ls spec/fuzz"
  for name in list:gmatch "([%w_]+)_fuzz%.c" do
    it(name .. " survives its seeds and what comes of them", function()
      local code, output = run(("seeds=spec/fuzz/corpus/%s; [ -d $seeds ] || seeds=; %s/%s_fuzz --runs %d --crash %s/crash-%s $seeds")
        :format(name, build, name, runs, build, name))
      assert.equal(0, code, output)
      assert.truthy(output:match "inputs from %d+ seeds, none crashed")
    end)
  end
end)

describe("the plain driver", function()
  local folder

  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(run("mkdir " .. folder) == 0)
  end)
  after_each(function()
    assert(run("rm -r " .. folder) == 0)
  end)

  local function target(body)
    local file = assert(io.open(folder .. "/target.c", "w"))
    file:write("#include <stdint.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n",
      "int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n)\n{\n", body, "\n    return 0;\n}\n")
    file:close()
    assert(run("printf 'length 12345678' > " .. folder .. "/seed") == 0)
    local code, output = run(("cc -O1 -o %s/target %s/target.c spec/fuzz/driver.c"):format(folder, folder))
    assert.equal(0, code, output)
    return run(("%s/target --runs 20000 --crash %s/crash %s/seed"):format(folder, folder, folder))
  end

  it("finds a crash near a seed, and keeps the input", function()
    local code = target "    if (n > 10 && !memcmp(d, \"length \", 7) && d[8] == 0xff) abort();"
    assert.equal(98, code)
    local file = assert(io.open(folder .. "/crash", "rb"))
    local input = file:read "*a"
    file:close()
    assert.equal("length ", input:sub(1, 7))
    assert.equal(0xff, input:byte(9))
  end)

  it("is content with a target that is", function()
    assert.same({ 0, "20001 inputs from 1 seeds, none crashed\n" }, { target "    (void)d, (void)n;" })
  end)
end)
