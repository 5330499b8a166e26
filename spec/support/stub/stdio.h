/* empty: LuaJIT's FFI knows the types */
