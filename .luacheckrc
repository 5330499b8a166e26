std = "luajit"
max_line_length = 140
cache = false
files["spec/"] = { std = "+busted", globals = {} }
files["lua/"] = { globals = {} }
exclude_files = { "build/", ".venv/", "models/" }
