--- core/cli/cmd_check.c: `moonpool check`, from outside.
local script = require "spec.support.script"
local moonpool = (os.getenv "MOONPOOL_BUILD" or "build/release") .. "/moonpool"

local dir
before_each(function()
  dir = script.folder { ["good.lua"] = 'local mp = require "moonpool"\nmp.model "m" { source = "m.gguf" }\n'
    .. 'mp.endpoint { route = "GET /x", handle = function() return {} end }\n', ["m.gguf"] = "x", ["bad.lua"] = "nonsense\n" }
end)
after_each(function()
  script.remove(dir)
end)

local function run(args)
  local out = dir .. "/out"
  local rc = os.execute(moonpool .. " check " .. args:gsub("DIR", dir) .. " >" .. out .. " 2>" .. out .. ".err")
  local function slurp(name)
    local f = assert(io.open(name, "rb"))
    local s = f:read "*a"
    f:close()
    return (s:gsub(dir:gsub("%p", "%%%0") .. "/", ""))
  end
  return rc / 256, slurp(out), slurp(out .. ".err")
end

describe("moonpool check", function()
  it("says ok and what is declared", function()
    assert.same({ 0, "ok: 1 model, 1 endpoint, 0 plugins\n", "" }, { run "DIR/good.lua" })
  end)

  it("prints the declarations as JSON", function()
    local rc, out, err = run "--json DIR/good.lua"
    assert.equal(0, rc)
    assert.equal("", err)
    local data = script.json.decode(out)
    assert.equal("m", data.models[1].name)
    assert.equal("good.lua:2", data.models[1].where)
    assert.equal("good.lua:3", data.endpoints[1].handle["function"])
    assert.equal(0.01, data.server.limits.burst)
  end)

  it("exits with 2 and says what is wrong", function()
    assert.same({ 2, "", "bad.lua:2: '=' expected near '<eof>'\n" }, { run "DIR/bad.lua" })
    assert.same({ 2, "", "moonpool check: no configuration none.lua: no such file\n" }, { run "DIR/none.lua" })
    assert.matches("^moonpool check: which configuration%?\nusage: moonpool check CONF %[%-%-json%]\n", select(3, run ""))
    assert.matches("no option '%-%-jso'", select(3, run "--jso DIR/good.lua"))
  end)

  it("prints the keys", function()
    local rc, out = run "--keys"
    assert.equal(0, rc)
    assert.matches("### `mp.model \"name\" { … }`", out, nil, true)
  end)
end)
