#!/bin/sh
# Runs one spec file (or several) under LuaJIT, as ctest and ./dev do. $MOONPOOL_BUILD names the build folder.
# With sanitizers the runtime must be loaded before luajit; leaks are judged in the server's own processes, not in luajit.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
cd "$here"
export MOONPOOL_BUILD="${MOONPOOL_BUILD:-$here/build/release}"
case "${MOONPOOL_SANITIZE:-}" in
asan) export MOONPOOL_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" ;;
tsan) export MOONPOOL_PRELOAD="$(gcc -print-file-name=libtsan.so)" ;;
esac
cat >"${TMPDIR:-/tmp}/moonpool-luajit.$$" <<EOF
#!/bin/sh
exec env LD_PRELOAD="${MOONPOOL_PRELOAD:-}" ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 $(command -v luajit) "\$@"
EOF
chmod +x "${TMPDIR:-/tmp}/moonpool-luajit.$$"
trap 'rm -f "${TMPDIR:-/tmp}/moonpool-luajit.$$"' EXIT
export LUA_PATH="./?.lua;./lua/?.lua;./lua/?/init.lua;${LUA_PATH:-;}"
busted --lua="${TMPDIR:-/tmp}/moonpool-luajit.$$" -o spec/support/output.lua "$@"
