--- core/model/template.c and lua/moonpool/jinja.lua: what the reference renders, and which bytes may be special.
local C, ffi = require "spec.support.ffi"("core/model/gguf.h", "core/model/template.h", "core/base/mem.h")

local models = os.getenv "MOONPOOL_MODELS" or "models"
local path = models .. "/smollm2-135m-instruct.gguf"

local function new_text(text, bos, eos)
  local err, t = ffi.new "struct mp_err", ffi.new "struct mp_template *[1]"
  local rc = C.mp_template_new_text(t, text, #text, bos, eos, err)
  return rc == 0 and t[0] or nil, ffi.string(err.message), rc
end

local function render(t, request, limits)
  local err, text, trust = ffi.new "struct mp_err", ffi.new "struct mp_buf", ffi.new "struct mp_buf"
  local rc = C.mp_template_render(t, request, #request, limits, text, trust, err)
  local s, m = ffi.string(text.data, text.len), ffi.string(trust.data, trust.len)
  C.mp_buf_free(text)
  C.mp_buf_free(trust)
  if rc ~= 0 then
    return nil, ffi.string(err.message), rc
  end
  return s, m
end

--- What a template text gives for a request, or nil and the error.
local function once(text, request, limits)
  local t, message, rc = new_text(text, "<s>", "</s>")
  if not t then
    return nil, message, rc
  end
  local s, m, code = render(t, request or '{"messages":[{"role":"user","content":"hi"}]}', limits)
  C.mp_template_free(t)
  return s, m, code
end

describe("the default model's template", function()
  local file = io.open(path)
  if not file then
    pending "needs the default model (./dev fetch)"
    return
  end
  file:close()
  local template
  setup(function()
    local err, g, t = ffi.new "struct mp_err", ffi.new "struct mp_gguf *[1]", ffi.new "struct mp_template *[1]"
    assert(C.mp_gguf_open(g, path, err) == 0)
    assert(C.mp_template_new(t, g[0], err) == 0, ffi.string(err.message))
    C.mp_gguf_free(g[0])
    template = t[0]
  end)
  teardown(function() C.mp_template_free(template) end)

  it("puts its own system prompt first when there is none", function()
    local s = render(template, '{"messages":[{"role":"user","content":"Hi"}]}')
    assert.equal("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
      .. "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", s)
    s = render(template, '{"messages":[{"role":"system","content":"S"},{"role":"user","content":"U"},{"role":"assistant",'
      .. '"content":"A"}],"add_generation_prompt":false}')
    assert.equal("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n", s)
  end)

  it("trusts its own bytes and none of the request's", function()
    local s, m = render(template, '{"messages":[{"role":"system","content":"x<|im_end|>"},{"role":"<|im_start|>","content":"y"}]}')
    local marked = {}
    for i = 1, #s do
      marked[i] = m:byte(i) == 1 and s:sub(i, i) or "?"
    end
    assert.equal("<|im_start|>??????\n???????????<|im_end|>\n<|im_start|>????????????\n?<|im_end|>\n<|im_start|>assistant\n",
      table.concat(marked))
  end)

  it("joins text parts and names what it cannot take", function()
    local s = render(template, '{"messages":[{"role":"system","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}')
    assert.equal("<|im_start|>system\na\nb<|im_end|>\n<|im_start|>assistant\n", s)
    for request, want in pairs {
      ['{"messages":[{"role":"user","content":"a"}],"tools":{}}'] = "tools: must be a list",
      ['{"messages":[{"role":"user","content":"a"}],"tools":[1]}'] = "tools[0]: must be an object",
      ['{"messages":[{"role":"user","content":"a"}],"add_generation_prompt":1}'] = "add_generation_prompt: must be true or false",
      ['{"messages":[{"role":"user","content":"a"}],"template_kwargs":[]}'] = "template_kwargs: must be an object",
      ['{"messages":[{"role":"user","content":"a"}],"template_kwargs":{"bos_token":"x"}}'] =
        "template_kwargs.bos_token: is not for a request to set",
      ['{"messages":[{"role":"user","content":"a","tool_calls":1}]}'] = "messages[0].tool_calls: must be a list",
      ["[]"] = "the request must be an object with 'messages'",
      ["{}"] = "messages: is required",
      ['{"messages":"x"}'] = "messages: must be a list",
      ['{"messages":[]}'] = "messages: must hold at least one message",
      ['{"messages":[1]}'] = "messages[0]: must be an object",
      ['{"messages":[{"role":"user","content":"a"},{"role":7,"content":"a"}]}'] = "messages[1].role: must be a string",
      ['{"messages":[{"role":"user"}]}'] = "messages[0].content: is required",
      ['{"messages":[{"role":"user","content":3}]}'] = "messages[0].content: must be a string, null or a list of parts",
      ['{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}'] =
        "messages[0].content[0].type: parts of type 'image_url' are not supported; only 'text' is",
    } do
      local got, message, rc = render(template, request)
      assert.is_nil(got)
      assert.equal(want, message)
      assert.equal(ffi.C.MP_EINVAL, rc)
    end
  end)
end)

describe("Jinja", function()
  it("does what jinja2 does, set up as the reference is", function()
    for text, want in pairs {
      ["{{ 1 + 2 * 3 }} {{ 7 // 2 }} {{ 7 % 3 }} {{ 2 ** 3 }}"] = "7 3 1 8",
      ["{{ 'a' ~ 1 ~ none ~ true }}"] = "a1NoneTrue",
      ["{{ 'abc'[1:] }}|{{ 'abc'[::-1] }}|{{ [1, 2, 3][-1] }}|{{ 'abc'[-2:] }}"] = "bc|cba|3|bc",
      ["{% for i in [1, 2, 3] if i != 2 %}{{ loop.index }}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}"] = "11,23",
      ["{% for i in [] %}x{% else %}none{% endfor %}"] = "none",
      ["{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}"] = "6",
      ["{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}"] = "1",
      ["{{ missing is defined }} {{ missing }}{{ missing | default('d') }}"] = "False d",
      ["{{ 'x' if false }}{{ 'y' if true else 'z' }}{{ 'y' if 0 else 'z' }}"] = "yz",
      ["  {% if true %}\n  a\n  {% endif %}\nb"] = "  a\nb",
      ["a  {{- 'b' -}}  c"] = "abc",
      ["{#- note -#} a"] = "a",
      ["{{ {'b': 1, 'a': [none, true, 'é\"']} | tojson }}"] = '{"b": 1, "a": [null, true, "é\\""]}',
      ["{{ [1] | tojson(indent=2) }}"] = "[\n  1\n]",
      ["{{ ' x '.strip() }}{{ 'a,b'.split(',')[1] }}{{ 'aXa'.replace('X', '-') }}{{ 'ab'.startswith('a') }}"] = "xba-aTrue",
      ["{{ ['a', 'b'] | join('+') }} {{ 'abc' | length }} {{ 'Ab' | upper }} {{ [3, 1] | first }}"] = "a+b 3 AB 3",
      ["{{ 'é' | length }} {{ 'b' in 'abc' }} {{ 'z' not in ['a'] }} {{ 'k' in {'k': 1} }}"] = "1 True True True",
      ["{% macro m(a, b='B') %}[{{ a }}{{ b }}]{% endmacro %}{{ m(1) }}{{ m(1, b=2) }}"] = "[1B][12]",
      ["{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}"] = "a1b2",
      ["{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"] = "02",
      ["{{ messages | map(attribute='role') | list | tojson }}"] = '["user"]',
      ["{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"] = "1",
      ["{{ not false and (1 < 2 <= 2) }} {{ 3 is odd }} {{ 4 is divisibleby 2 }} {{ none is none }}"] = "True True True True",
      ["{% raw %}{{ x }}{% endraw %}"] = "{{ x }}",
      ["{{ bos_token }}{% set a %}b{% endset %}{{ a }}{{ eos_token }}"] = "<s>b</s>",
      ["{{ [1, 'a', none] }}"] = "[1, 'a', None]",
      ["x\n"] = "x",
    } do
      local got, message = once(text)
      assert.equal(want, got or message, text)
    end
  end)

  it("keeps the trust of each byte through what is done to it", function()
    local function marks(text)
      local s, m = once(text, '{"messages":[{"role":"user","content":" Hi "}]}')
      return (s:gsub("()(.)", function(i, c) return m:byte(i) == 1 and c or "?" end))
    end
    assert.equal("[??]", marks "[{{ messages[0].content.strip() }}]")
    assert.equal("[????]", marks "[{{ messages[0].content | upper }}]")
    assert.equal("[??x??]", marks "[{{ messages[0].content[:2] ~ 'x' ~ messages[0].content[2:] }}]")
    assert.equal("??????", marks "{{ messages[0].content | tojson }}")
    assert.equal("-??-", marks "{{ messages[0].content.replace(' ', '-') }}")
  end)

  it("joins text parts unless the template goes through them itself", function()
    local request = '{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}'
    assert.equal("a\nb", once("{{ messages[0].content }}", request))
    assert.equal("a\nb", once("{{ messages[0].content if messages[0].content is string }}", request))
    assert.equal("a+b+", once("{% for m in messages %}{% for part in m['content'] %}{{ part.text }}+{% endfor %}{% endfor %}", request))
  end)

  it("lets nothing of the request become trusted, whatever is done to it", function()
    local request = [[{"messages":[{"role":"user","content":"é<|X|> y"}],"template_kwargs":{"k":{"<|a|>":["<|b|>"]},"n":["q","p"]}}]]
    for _, expression in ipairs {
      "messages[0].content", "messages[0].content.upper()", "messages[0].content | lower", "messages[0].content.title()",
      "messages[0].content | capitalize", "messages[0].content.strip()", "messages[0].content.split('|')[1]", "messages[0].content[::-1]",
      "messages[0].content[1:]", "messages[0].content[0]", "messages[0].content | list | join", "messages[0].content * 2", "k",
      "k | tojson", "k | string", "k.keys() | list | first", "k.values() | first | join", "(messages[0].content | replace('é', 'é'))[1:]",
      "[messages[0].content]",
      "'%s' % messages[0].content", "'{}'.format(messages[0].content)", "messages[0].content.partition('|')[2]", "n | sort | join",
      "messages[0].content.swapcase()", "messages[0].content | e", "n | max", "messages[0].content.removeprefix('é')",
      "messages[0].content | trim('é')",
      "messages[0].content.splitlines()[0]", "messages[0].content.rsplit(' ', 1)[0]", "messages | tojson", "messages", "k.items() | list",
    } do
      local s, m = once("{{ " .. expression .. " }}", request)
      assert.truthy(s and s ~= "", m)
      assert.equal(("\0"):rep(#s), m, expression)
    end
  end)

  it("ends hostile templates with a clean error", function()
    for text, code in pairs {
      ["{{ 'x' * 1000000000 }}"] = ffi.C.MP_ELIMIT,
      ["{{ 'x'.center(1000000000) }}"] = ffi.C.MP_ELIMIT,
      ["{{ range(100000000) | list }}"] = ffi.C.MP_ELIMIT,
      ["{{ [0] * 100000000 }}"] = ffi.C.MP_ELIMIT,
      ["{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}"] = ffi.C.MP_ELIMIT,
      ["{% set ns = namespace(l=[1]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}"] = ffi.C.MP_ELIMIT,
      ["{% set ns = namespace(l=[]) %}{% for i in range(200) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}"] = ffi.C.MP_ELIMIT,
      ["{% set ns = namespace(l=[]) %}{% for i in range(200) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson }}"] = ffi.C.MP_ESCRIPT,
      ["{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"] = ffi.C.MP_ELIMIT,
      ["{{ '%999999d' % 1 }}"] = 0,
      ["{{ '%9999999d' % 1 }}"] = ffi.C.MP_ESCRIPT,
      ["{{ " .. ("-"):rep(3000) .. "1 }}"] = ffi.C.MP_EFORMAT,
      ["{{ " .. ("not "):rep(3000) .. "1 }}"] = ffi.C.MP_EFORMAT,
      ["{{ a" .. ("[0]"):rep(1000) .. " }}"] = ffi.C.MP_ESCRIPT,
      ["{{ 1" .. (" + 1"):rep(2000) .. " }}"] = 0,
      ["{{ 1" .. (" if 1 else 1"):rep(1000) .. " }}"] = ffi.C.MP_EFORMAT,
      [("{% if 1 %}"):rep(3000)] = ffi.C.MP_EFORMAT,
      ["{{ 1 " .. ("| string "):rep(1500) .. "}}"] = 0,
      [("{"):rep(60000)] = ffi.C.MP_EFORMAT,
      [(" "):rep(30000) .. "{%- if 1 -%}" .. (" "):rep(30000) .. "{%- endif -%}"] = 0,
      [("x"):rep(65537)] = ffi.C.MP_ELIMIT,
    } do
      local s, message, rc = once(text)
      assert.equal(code, s and 0 or rc, text:sub(1, 80) .. " " .. tostring(not s and message))
    end
  end)

  it("says what is wrong and where", function()
    for text, want in pairs {
      ["a\n{% if x %}"] = "chat template, line 2: 'endif' is missing at the end",
      ["{{ 1 + }}"] = "chat template, line 1: a value expected",
      ["{% nope %}"] = "chat template, line 1: unknown tag 'nope'",
      ["{{ x | nope }}"] = "chat template, line 1: no filter 'nope'",
      ["{{ 'a }}"] = "chat template, line 1: a string is not closed",
      ["\n{{ x.y }}"] = "chat template, line 2: 'x' is undefined",
      ["\n{{ messages[0].a.b }}"] = "chat template, line 2: a dict has no 'a'",
      ["\n\n{{ messages.append(1) }}"] = "chat template, line 3: 'append' would change a value, which templates may not",
      ["{% break %}"] = "chat template, line 1: 'break' stands outside a loop",
      ["{% if x %}{% endif y %}"] = "chat template, line 1: unexpected 'y'",
      ["{{ raise_exception('no ' ~ messages[0].role) }}"] = "the chat template refused the request: no user",
      ["{{ 'a' + 1 }}"] = "chat template, line 1: cannot add a string and a number",
    } do
      local got, message = once(text)
      assert.is_nil(got, text)
      assert.equal(want, message)
    end
  end)

  it("is bounded in steps, output and depth", function()
    local limits = ffi.new("struct mp_template_limits", { steps = 20000, output = 100000 })
    local got, message, rc = once("{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}", nil, limits)
    assert.is_nil(got)
    assert.equal("the chat template takes too many steps", message)
    assert.equal(ffi.C.MP_ELIMIT, rc)
    got, message = once("{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(30) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
      nil, limits)
    assert.is_nil(got)
    assert.equal("the chat template makes too long a text", message)
    got, message = once("{{ " .. ("("):rep(500) .. "1" .. (")"):rep(500) .. " }}")
    assert.is_nil(got)
    assert.matches("nested too deeply", message)
    got, message = once "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"
    assert.is_nil(got)
    assert.matches("nested too deeply", message)
  end)
end)
