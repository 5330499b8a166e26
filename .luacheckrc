std = "luajit"
max_line_length = 140
cache = false
-- Specs: a case stands on one line, also a long one; `keep` holds FFI callbacks that C still calls.
files["spec/"] = { std = "+busted", max_line_length = 200, ignore = { "241/keep" } }
exclude_files = { "build/", ".venv/", "models/" }
