/* empty: _Atomic is defined away for LuaJIT's FFI */
