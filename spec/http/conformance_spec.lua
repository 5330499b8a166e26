--- What core/net takes for a request and what it refuses, byte for byte: a table of requests, each sent in one piece, cut in two
--- at every position, and read byte by byte. The verdict must be the same each time.
local Server = require "spec.support.http_server"
local ffi = require "ffi"

ffi.cdef "int setenv(const char *name, const char *value, int overwrite); int unsetenv(const char *name);"

local H = "Host: a\r\n"
--- A request with a valid head around `fields` and with `body`.
local function get(fields, target)
  return "GET " .. (target or "/") .. " HTTP/1.1\r\n" .. H .. (fields or "") .. "\r\n"
end
local function post(fields, body)
  return "POST / HTTP/1.1\r\n" .. H .. fields .. "\r\n" .. (body or "")
end
local function chunked(body, fields)
  return post("Transfer-Encoding: chunked\r\n" .. (fields or ""), body)
end
--- A request line of n bytes, and header lines of n bytes in all, Host among them.
local function line_of(n)
  return "GET /" .. ("x"):rep(n - #"GET / HTTP/1.1") .. " HTTP/1.1\r\n" .. H .. "\r\n"
end
local function headers_of(n)
  return "GET / HTTP/1.1\r\n" .. H .. "A: " .. ("x"):rep(n - #H - #"A: \r\n") .. "\r\n\r\n"
end
local function fields_of(n)
  return get(("A: b\r\n"):rep(n - 1))
end

--- name, request, expected statuses ("" waits for more; a trailing "x": the server closes), text the answer must hold.
local cases = {
  -- methods and targets
  { "GET", get(), "200", "GET\n/\n\na\n" },
  { "HEAD", "HEAD / HTTP/1.1\r\n" .. H .. "\r\n", "200" },
  { "PUT", "PUT /x HTTP/1.1\r\n" .. H .. "Content-Length: 1\r\n\r\nz", "200", "PUT\n/x\n" },
  { "DELETE", "DELETE /x HTTP/1.1\r\n" .. H .. "\r\n", "200", "DELETE\n" },
  { "PATCH", "PATCH /x HTTP/1.1\r\n" .. H .. "\r\n", "200", "PATCH\n" },
  { "OPTIONS *", "OPTIONS * HTTP/1.1\r\n" .. H .. "\r\n", "200", "OPTIONS\n*\n" },
  { "OPTIONS with a path", "OPTIONS /x HTTP/1.1\r\n" .. H .. "\r\n", "200" },
  { "* for GET", "GET * HTTP/1.1\r\n" .. H .. "\r\n", "400x" },
  { "an unknown method", "BREW / HTTP/1.1\r\n" .. H .. "\r\n", "501x" },
  { "a method in lower case", "get / HTTP/1.1\r\n" .. H .. "\r\n", "501x" },
  { "a method that begins like a known one", "GETS / HTTP/1.1\r\n" .. H .. "\r\n", "501x" },
  { "CONNECT", "CONNECT a:443 HTTP/1.1\r\n" .. H .. "\r\n", "501x" },
  { "TRACE", "TRACE / HTTP/1.1\r\n" .. H .. "\r\n", "501x" },
  { "a WebDAV method", "PROPFIND / HTTP/1.1\r\n" .. H .. "\r\n", "501x" },
  { "the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "501x" },
  { "a TLS hello", "\22\3\1\2\0\1\0\1\252\3\3", "400x" },
  { "a method that is no token", "G@T / HTTP/1.1\r\n" .. H .. "\r\n", "400x" },
  { "no method", " / HTTP/1.1\r\n" .. H .. "\r\n", "400x" },
  { "a query", get("", "/p?a=1&b=%20"), "200", "GET\n/p\na=1&b=%20\n" },
  { "an empty query", get("", "/p?"), "200", "GET\n/p\n\n" },
  { "question marks in a query", get("", "/p?a?b"), "200", "GET\n/p\na?b\n" },
  { "an encoded path", get("", "/a%20b%C3%A9"), "200", "GET\n/a bé\n" },
  { "an encoded slash", get("", "/a%2Fb"), "200", "GET\n/a/b\n" },
  { "a path with two slashes", get("", "//a//b"), "200", "GET\n//a//b\n" },
  { "a path with a broken escape", get("", "/a%2"), "400x" },
  { "a path with a false escape", get("", "/a%zz"), "400x" },
  { "a path with an encoded NUL", get("", "/a%00b"), "400x" },
  { "a path that is not UTF-8", get("", "/a%ff"), "400x" },
  { "a raw byte beyond ASCII in the target", get("", "/\195\169"), "400x" },
  { "a fragment", get("", "/a#b"), "400x" },
  { "a target without slash", get("", "a/b"), "400x" },
  { "an absolute target", get("", "http://b:81/p?q"), "200", "GET\n/p\nq\nb:81\n" },
  { "an absolute target without a path", get("", "http://b"), "200", "GET\n/\n\nb\n" },
  { "an absolute target with only a query", get("", "http://b?q"), "200", "GET\n/\nq\nb\n" },
  { "an absolute target in capitals", get("", "HTTP://b/p"), "200", "GET\n/p\n\nb\n" },
  { "an absolute target with a user", get("", "http://u@b/"), "400x" },
  { "an absolute target without a host", get("", "http:///p"), "400x" },
  { "a target of another scheme", get("", "ftp://b/p"), "400x" },
  -- the request line
  { "two spaces before the target", "GET  / HTTP/1.1\r\n" .. H .. "\r\n", "400x" },
  { "two spaces before the version", "GET /  HTTP/1.1\r\n" .. H .. "\r\n", "400x" },
  { "a space behind the version", "GET / HTTP/1.1 \r\n" .. H .. "\r\n", "400x" },
  { "a space in the target", "GET /a b HTTP/1.1\r\n" .. H .. "\r\n", "400x" },
  { "a tab for a space", "GET\t/ HTTP/1.1\r\n" .. H .. "\r\n", "400x" },
  { "HTTP/0.9", "GET /\r\n", "400x" },
  { "HTTP/0.9 spelled out", "GET / HTTP/0.9\r\n\r\n", "505x" },
  { "HTTP/2.0", "GET / HTTP/2.0\r\n" .. H .. "\r\n", "505x" },
  { "HTTP/1.2", "GET / HTTP/1.2\r\n" .. H .. "\r\n", "505x" },
  { "HTTP/1.10", "GET / HTTP/1.10\r\n" .. H .. "\r\n", "505x" },
  { "HTTP/11", "GET / HTTP/11\r\n" .. H .. "\r\n", "505x" },
  { "a protocol in lower case", "GET / http/1.1\r\n" .. H .. "\r\n", "400x" },
  { "another protocol", "GET / ICE/1.0\r\n" .. H .. "\r\n", "400x" },
  { "no version", "GET / \r\n" .. H .. "\r\n", "400x" },
  { "LF alone behind the request line", "GET / HTTP/1.1\n" .. H .. "\r\n", "400x" },
  { "CR alone behind the request line", "GET / HTTP/1.1\r" .. H .. "\r\n", "400x" },
  { "NUL in the request line", "GET /\0 HTTP/1.1\r\n" .. H .. "\r\n", "400x" },
  { "an empty line before it", "\r\n" .. get(), "200" },
  { "two empty lines before it", "\r\n\r\n" .. get(), "200" },
  { "three empty lines before it", "\r\n\r\n\r\n" .. get(), "400x" },
  { "LF before it", "\n" .. get(), "400x" },
  { "a request line of 8 KiB", line_of(8192), "200" },
  { "a request line over 8 KiB", line_of(8193), "414x" },
  { "a request line without end", "GET /" .. ("x"):rep(9000), "414x" },
  -- HTTP/1.0
  { "HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", "200x" },
  { "HTTP/1.0 with Host", "GET / HTTP/1.0\r\n" .. H .. "\r\n", "200x", "\na\n" },
  { "HTTP/1.0 with keep-alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "200" },
  { "HTTP/1.0 with a body", "POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi", "200x", "\nhi" },
  { "HTTP/1.0 with chunks", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400x" },
  { "HTTP/1.0 expecting", "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", "200x", "\nhi" },
  { "HTTP/1.0 with a bad Host", "GET / HTTP/1.0\r\nHost: a b\r\n\r\n", "400x" },
  -- Host
  { "no Host", "GET / HTTP/1.1\r\n\r\n", "400x" },
  { "two Hosts", get "Host: a\r\n", "400x" },
  { "two different Hosts", get "Host: b\r\n", "400x" },
  { "an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "400x" },
  { "a Host with a port", "GET / HTTP/1.1\r\nHost: a:80\r\n\r\n", "200", "\na:80\n" },
  { "a Host with an empty port", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "200" },
  { "a Host with a port too large", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "400x" },
  { "a Host with a false port", "GET / HTTP/1.1\r\nHost: a:8a\r\n\r\n", "400x" },
  { "a Host that is IPv6", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "200" },
  { "a Host with an open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "400x" },
  { "a Host with a slash", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400x" },
  { "a Host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400x" },
  { "a Host with a comma", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "400x" },
  { "a Host beyond ASCII", "GET / HTTP/1.1\r\nHost: \195\169\r\n\r\n", "400x" },
  { "a Host beside an absolute target must be valid too", "GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n", "400x" },
  -- header fields
  { "no space behind the colon", get "A:b\r\n", "200", "\na: b\n" },
  { "white space around a value", get "A: \t b c \t\r\n", "200", "\na: b c\n" },
  { "an empty value", get "A:\r\n", "200", "\na: \n" },
  { "a value of white space", get "A:  \t \r\n", "200", "\na: \n" },
  { "a tab inside a value", get "A: b\tc\r\n", "200", "\na: b\tc\n" },
  { "bytes beyond ASCII in a value", get "A: \195\169\255\r\n", "200", "\na: \195\169\255\n" },
  { "every character of a token", get "!#$%&'*+-.^_`|~09azAZ: b\r\n", "200", "\n!#$%&'*+-.^_`|~09azaz: b\n" },
  { "a field twice", get "A: b\r\nA: c\r\n", "200", "\na: b\na: c\n" },
  { "a space before the colon", get "A : b\r\n", "400x" },
  { "a tab before the colon", get "A\t: b\r\n", "400x" },
  { "a space in a name", get "A b: c\r\n", "400x" },
  { "an empty name", get ": b\r\n", "400x" },
  { "a line without a colon", get "Ab\r\n", "400x" },
  { "a name with a slash", get "A/b: c\r\n", "400x" },
  { "a name beyond ASCII", get "\195\169: c\r\n", "400x" },
  { "NUL in a name", get "A\0: c\r\n", "400x" },
  { "NUL in a value", get "A: b\0c\r\n", "400x" },
  { "a control character in a value", get "A: b\1c\r\n", "400x" },
  { "DEL in a value", get "A: b\127c\r\n", "400x" },
  { "CR in a value", get "A: b\rc\r\n", "400x" },
  { "CR CR LF behind a value", get "A: b\r\r\n", "400x" },
  { "LF alone behind a value", get "A: b\nC: d\r\n", "400x" },
  { "obsolete folding with a space", get "A: b\r\n c\r\n", "400x" },
  { "obsolete folding with a tab", get "A: b\r\n\tc\r\n", "400x" },
  { "a first header line that starts with a space", "GET / HTTP/1.1\r\n " .. H .. "\r\n", "400x" },
  { "LF alone behind the headers", "GET / HTTP/1.1\r\n" .. H .. "\n", "400x" },
  { "CR alone behind the headers", "GET / HTTP/1.1\r\n" .. H .. "\rX", "400x" },
  { "100 fields", fields_of(100), "200" },
  { "101 fields", fields_of(101), "431x" },
  { "headers of 16 KiB", headers_of(16384), "200" },
  { "headers over 16 KiB", headers_of(16385), "431x" },
  { "a header line without end", "GET / HTTP/1.1\r\nA: " .. ("x"):rep(17000), "431x" },
  -- Content-Length
  { "a body", post("Content-Length: 5\r\n", "hello"), "200", "\nhello" },
  { "an empty body", post "Content-Length: 0\r\n", "200" },
  { "no length, no body", post "", "200" },
  { "GET with a body", get "Content-Length: 2\r\n" .. "hi", "200", "\nhi" },
  { "a length with white space around", post("Content-Length:  2 \r\n", "hi"), "200", "\nhi" },
  { "a length with leading zeros", post("Content-Length: 002\r\n", "hi"), "200", "\nhi" },
  { "a body with NULs", post("Content-Length: 3\r\n", "a\0b"), "200", "\na\0b" },
  { "a body that is not there yet", post("Content-Length: 5\r\n", "hell"), "" },
  { "an empty length", post "Content-Length:\r\n", "400x" },
  { "a negative length", post "Content-Length: -1\r\n", "400x" },
  { "a length with a sign", post("Content-Length: +1\r\n", "a"), "400x" },
  { "a length in hexadecimal", post("Content-Length: 0x1\r\n", "a"), "400x" },
  { "a length with a fraction", post("Content-Length: 1.0\r\n", "a"), "400x" },
  { "a length with a space inside", post("Content-Length: 1 1\r\n", "hello hello"), "400x" },
  { "a list of lengths", post("Content-Length: 2, 2\r\n", "hi"), "400x" },
  { "two lengths", post("Content-Length: 2\r\nContent-Length: 3\r\n", "hi!"), "400x" },
  { "the same length twice", post("Content-Length: 2\r\nContent-Length: 2\r\n", "hi"), "400x" },
  { "a length of 2^64", post "Content-Length: 18446744073709551616\r\n", "400x" },
  { "a length of 30 digits", post("Content-Length: " .. ("9"):rep(30) .. "\r\n"), "400x" },
  { "a length over the limit", post "Content-Length: 8388609\r\n", "413x" },
  { "a length far over the limit", post "Content-Length: 999999999999999999\r\n", "413x" },
  -- Transfer-Encoding
  { "chunks", chunked "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", "200", "\nhello!" },
  { "no chunk at all", chunked "0\r\n\r\n", "200" },
  { "chunk sizes in capitals", chunked("A\r\n0123456789\r\n0\r\n\r\n"), "200", "\n0123456789" },
  { "chunk sizes with zeros in front", chunked "005\r\nhello\r\n000\r\n\r\n", "200", "\nhello" },
  { "a chunk extension", chunked "5;a=b\r\nhello\r\n0;c\r\n\r\n", "200", "\nhello" },
  { "a quoted chunk extension", chunked '5;a="b;c"\r\nhello\r\n0\r\n\r\n', "200", "\nhello" },
  { "trailers", chunked "5\r\nhello\r\n0\r\nA: b\r\nHost: evil\r\n\r\n", "200", "\nhello" },
  { "chunked in capitals", post("Transfer-Encoding: CHUNKED\r\n", "0\r\n\r\n"), "200" },
  { "chunks that are not there yet", chunked "5\r\nhel", "" },
  { "length and chunks", chunked("0\r\n\r\n", "Content-Length: 5\r\n"), "400x" },
  { "chunks and length", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), "400x" },
  { "another coding", post("Transfer-Encoding: gzip\r\n", "x"), "400x" },
  { "identity", post("Transfer-Encoding: identity\r\n", "x"), "400x" },
  { "an empty coding", post("Transfer-Encoding:\r\n", "x"), "400x" },
  { "another coding before chunked", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), "501x" },
  { "chunked before another coding", post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"), "400x" },
  { "chunked twice", post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), "400x" },
  { "chunked in two fields", chunked("0\r\n\r\n", "Transfer-Encoding: chunked\r\n"), "400x" },
  { "a coding in a field before chunked", post("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), "400x" },
  { "something like chunked", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), "400x" },
  { "chunked with a parameter", post("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"), "400x" },
  { "chunked in quotes", post('Transfer-Encoding: "chunked"\r\n', "0\r\n\r\n"), "400x" },
  { "chunked behind a vertical tab", post("Transfer-Encoding: \11chunked\r\n", "0\r\n\r\n"), "400x" },
  -- chunk framing
  { "an empty chunk size", chunked "\r\nhello\r\n0\r\n\r\n", "400x" },
  { "a chunk size that is no number", chunked "x\r\nhello\r\n0\r\n\r\n", "400x" },
  { "a chunk size with 0x", chunked "0x5\r\nhello\r\n0\r\n\r\n", "400x" },
  { "a negative chunk size", chunked "-1\r\nhello\r\n0\r\n\r\n", "400x" },
  { "a chunk size with a space in front", chunked " 5\r\nhello\r\n0\r\n\r\n", "400x" },
  { "a chunk size with a space behind", chunked "5 \r\nhello\r\n0\r\n\r\n", "400x" },
  { "LF alone behind a chunk size", chunked "5\nhello\r\n0\r\n\r\n", "400x" },
  { "CR alone behind a chunk size", chunked "5\rhello\r\n0\r\n\r\n", "400x" },
  { "LF alone behind a chunk extension", chunked "5;a\nhello\r\n0\r\n\r\n", "400x" },
  { "NUL in a chunk extension", chunked "5;a\0\r\nhello\r\n0\r\n\r\n", "400x" },
  { "any two bytes behind a chunk's data", chunked "5\r\nhelloXX0\r\n\r\n", "400x" },
  { "LF alone behind a chunk's data", chunked "5\r\nhello\n0\r\n\r\n", "400x" },
  { "a chunk longer than its size", chunked "4\r\nhello\r\n0\r\n\r\n", "400x" },
  { "a chunk shorter than its size", chunked "6\r\nhello\r\n0\r\n\r\n", "400x" },
  { "a chunk size that overflows", chunked "fffffffffffffffff\r\nx", "400x" },
  { "a chunk size of 2^64", chunked "10000000000000000\r\nx", "400x" },
  { "a chunk size of 5,000 zeros", chunked(("0"):rep(5000) .. "\r\n\r\n"), "400x" },
  { "a chunk over the limit", chunked "800001\r\nx", "413x" },
  { "chunks over the limit in sum", chunked "1\r\nx\r\n800000\r\nx", "413x" },
  { "chunk extensions of 4 KiB", chunked("1;" .. ("a"):rep(4096) .. "\r\nx\r\n0\r\n\r\n"), "200" },
  { "a chunk extension over 4 KiB", chunked("1;" .. ("a"):rep(4097) .. "\r\nx\r\n0\r\n\r\n"), "400x" },
  { "chunk extensions over 4 KiB in sum", chunked(("1;" .. ("a"):rep(1024) .. "\r\nx\r\n"):rep(5) .. "0\r\n\r\n"), "400x" },
  { "a folded trailer", chunked "0\r\nA: b\r\n c\r\n\r\n", "400x" },
  { "a trailer without a name", chunked "0\r\n: b\r\n\r\n", "400x" },
  { "a trailer with LF alone", chunked "0\r\nA: b\n\r\n", "400x" },
  { "a trailer with NUL", chunked "0\r\nA: \0\r\n\r\n", "400x" },
  { "too many trailers", chunked("0\r\n" .. ("A: b\r\n"):rep(101) .. "\r\n"), "431x" },
  { "trailers over 16 KiB", chunked("0\r\nA: " .. ("b"):rep(16384) .. "\r\n\r\n"), "431x" },
  { "LF alone at the end of the trailers", chunked "0\r\n\n", "400x" },
  -- Expect, Connection, Upgrade
  { "100-continue", post("Expect: 100-continue\r\nContent-Length: 2\r\n", "hi"), "100 200", "\nhi" },
  { "100-continue in capitals", post("Expect: 100-Continue\r\nContent-Length: 2\r\n", "hi"), "100 200", "\nhi" },
  { "100-continue without a body", post "Expect: 100-continue\r\n", "200" },
  { "100-continue for a body over the limit", post "Expect: 100-continue\r\nContent-Length: 8388609\r\n", "413x" },
  { "another expectation", post("Expect: 200-ok\r\nContent-Length: 2\r\n", "hi"), "417x" },
  { "an empty expectation", post("Expect:\r\nContent-Length: 2\r\n", "hi"), "417x" },
  { "Connection: close", get "Connection: close\r\n", "200x" },
  { "Connection: CLOSE among others", get "Connection: te, CLOSE\r\n", "200x" },
  { "Upgrade is ignored", get "Connection: Upgrade\r\nUpgrade: websocket\r\n" .. get(), "200 200" },
  { "Upgrade with a body is ignored", post("Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n", "hi") .. get(), "200 200" },
  -- pipelining
  { "two requests at once", get("", "/1") .. get("", "/2"), "200 200", "GET\n/1\n.*GET\n/2\n" },
  { "requests with bodies behind each other", post("Content-Length: 1\r\n", "x") .. chunked "1\r\ny\r\n0\r\n\r\n" .. get(), "200 200 200" },
  { "a good one before a bad one", get() .. "GET / HTTP/1.1\r\nHost: a b\r\n\r\n" .. get(), "200 400x" },
  { "nothing is read behind Connection: close", get "Connection: close\r\n" .. get(), "200x" },
  { "nothing is read behind a refusal", get "A : b\r\n" .. get(), "400x" },
  { "a body that looks like a request", post("Content-Length: " .. #get() .. "\r\n", get()), "200" },
  { "a short length leaves the rest to the next request", post("Content-Length: 2\r\n", "hi\1"), "200 400x" },
  { "half a request", "GET / HT", "" },
  { "nothing", "", "" },
}

--- Sends the pieces and waits until the server has nothing more to do. -> "200 400x", all that came.
local function verdict(server, pieces)
  local c = server:connect()
  for _, piece in ipairs(pieces) do
    c:send(piece, true)
    server:settle()
  end
  local text, closed = c:drain()
  c:close()
  local statuses, bodies, at = {}, {}, 1
  while at <= #text do
    local status, behind = text:match("^HTTP/1%.1 (%d%d%d) [^\r]*\r\n()", at)
    assert(status, "not a response: " .. text:sub(at, at + 100))
    local head_end = text:find("\r\n\r\n", at, true)
    local head = text:sub(behind, head_end + 1)
    local length = tonumber(status ~= "100" and head:match "content%-length: (%d+)\r\n" or 0)
    if text:sub(head_end + 4, head_end + 4 + length - 1) == "" then
      length = 0 -- HEAD
    end
    bodies[#bodies + 1] = text:sub(head_end + 4, head_end + 3 + length)
    at = head_end + 4 + length
    statuses[#statuses + 1] = status
  end
  return table.concat(statuses, " ") .. (closed and "x" or ""), (table.concat(bodies):gsub('"request_id":"%x+"', ""))
end

--- Where to cut a request in two: everywhere; in long ones around line ends and now and then.
local function cuts(request)
  local at = {}
  for i = 1, #request - 1 do
    if #request <= 400 or request:sub(i - 2, i + 2):find "[\r\n]" and (i < 60 or i > #request - 60) or i % 499 == 0 then
      at[#at + 1] = i
    end
  end
  return at
end

describe("a request's bytes", function()
  local server, slow

  setup(function()
    server = Server.start()
    ffi.C.setenv("MOONPOOL_DEBUG_READ", "1", 1)
    slow = Server.start()
    ffi.C.unsetenv "MOONPOOL_DEBUG_READ"
  end)
  teardown(function()
    server:stop()
    slow:stop()
  end)

  it("are judged by a table of at least 120 cases", function()
    assert.is_true(#cases >= 120)
  end)

  for _, case in ipairs(cases) do
    local name, request, expected, text = case[1], case[2], case[3], case[4]
    it(("%s -> %s"):format(name, expected == "" and "waits" or expected), function()
      local got, answer = verdict(server, { request })
      assert.equal(expected, got, answer)
      if text then
        assert.is_truthy(answer:find(text, 1, not text:find(".*", 1, true)), answer)
      elseif expected:find "^[45]" then
        assert.is_truthy(answer:find('{"error":{"code":"', 1, true), answer)
      end

      local slow_got, slow_answer = verdict(slow, { request })
      assert.equal(got, slow_got, "byte by byte")
      assert.equal(answer, slow_answer, "byte by byte")
      for _, i in ipairs(cuts(request)) do
        local cut_got, cut_answer = verdict(server, { request:sub(1, i), request:sub(i + 1) })
        assert.equal(got, cut_got, "cut at " .. i)
        assert.equal(answer, cut_answer, "cut at " .. i)
      end
    end)
  end
end)
