--- The layers of DESIGN §1 and the rules of PRINCIPLES that can be read off the text, held over the whole checkout; and the
--- checker itself, over trees that break each rule.
local house = require "spec.support.house"

local function tree_of(files)
  local tree = {}
  for path, text in pairs(files) do
    tree[path] = "/* what for */\n" .. text .. "\n"
    tree[path:match "^(.*)/" .. "/README.md"] = "# here\n"
  end
  return tree
end

describe("the house", function()
  it("keeps its layers, has no circles, no banned calls, and a page in every folder", function()
    local tree, count = house.read(), 0
    for path in pairs(tree) do
      count = count + (path:match "%.[ch]$" and 1 or 0)
    end
    assert.is_true(count > 20, "the tree was not read")
    assert.equal("", table.concat(house.check(tree), "\n"))
  end)

  it("keeps the two wings apart", function()
    for _, pair in ipairs {
      { "core/net", "core/engine" }, { "core/gateway", "core/engine" }, { "core/gateway", "core/model" }, { "core/script", "gpu" },
      { "core/engine", "core/gateway" }, { "core/engine", "core/pool" }, { "core/model", "core/net" }, { "core/model", "core/wire" },
      { "gpu/cpu", "core/engine" }, { "core/engine", "gpu/cpu" }, { "core/wire", "core/vm" }, { "core/net", "core/vm" },
    } do
      local from, to = pair[1], pair[2]
      local problems = house.check(tree_of {
        [from .. "/a.c"] = ('#include "%s/b.h"'):format(to), [to .. "/b.h"] = "",
      })
      assert.same({ ("%s/a.c:2: %s may not include %s (%s/b.h)"):format(from, from, to, to) }, problems)
    end
  end)

  it("lets a layer include what those below it may", function()
    assert.same({}, house.check(tree_of {
      ["core/cli/a.c"] = '#include "core/gateway/g.h"\n#include "core/engine/e.h"\n#include "core/wire/w.h"',
      ["core/gateway/g.h"] = '#include "core/net/n.h"\n#include "core/vm/v.h"\n#include "core/wire/w.h"',
      ["core/engine/e.h"] = '#include "gpu/device.h"\n#include "core/vm/v.h"',
      ["core/net/n.h"] = '#include "core/base/buf.h"', ["core/vm/v.h"] = "", ["core/wire/w.h"] = "",
      ["core/base/buf.h"] = "", ["gpu/device.h"] = '#include "core/base/buf.h"',
    }))
  end)
end)

describe("the checker", function()
  it("finds a circle through several files", function()
    assert.same({ "circle of includes: core/net/a.h -> core/net/b.h -> core/net/c.h -> core/net/a.h" }, house.check(tree_of {
      ["core/net/a.h"] = '#include "core/net/b.h"', ["core/net/b.h"] = '#include "core/net/c.h"',
      ["core/net/c.h"] = '#include "core/net/a.h"',
    }))
  end)

  it("finds banned calls, in code only", function()
    assert.same({
      "core/net/a.c:3: strcpy() is not used here: mp_buf",
      "core/net/a.c:5: usleep() blocks a loop",
    }, house.check(tree_of {
      ["core/net/a.c"] = table.concat({
        "/* strcpy(a, b) */ const char *s = \"sprintf(\\\" \"; // system()",
        "strcpy (s, t);",
        "my_strcpy(s, t); strcpy_s(s); char c = '\"';",
        "usleep(1);",
        "char *d = \"//\"; /* alloca(",
        "alloca(3) */",
      }, "\n"),
    }))
  end)

  it("finds includes that are not there, or not written from the root", function()
    assert.same({
      'core/net/a.c:2: includes "b.h", which is not there (includes are written from the root)',
      "core/net/a.c:3: includes its own tree with <>",
    }, house.check(tree_of { ["core/net/a.c"] = '#include "b.h"\n#include <core/net/b.h>\n// #include "c.h"', ["core/net/b.h"] = "" }))
  end)

  it("finds a folder without a place or a page, a file without a purpose, and one too long", function()
    assert.same({
      "core/misc/README.md:1: is missing: what lives here, what may include what, where to add the next one",
      "core/misc/a.c:1: does not start with what it is for and who calls it",
      "core/misc/a.c:1: folder core/misc has no place in the layers",
      "core/net/long.c:1201: is longer than about 1,000 lines: which noun is the second one?",
    }, house.check {
      ["core/misc/a.c"] = "int a;\n", ["core/net/long.c"] = "/* long */\n" .. ("int a;\n"):rep(1200), ["core/net/README.md"] = "#\n",
    })
  end)
end)
