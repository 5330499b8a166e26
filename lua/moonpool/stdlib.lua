--- lua/moonpool/stdlib.lua: the standard functions that a script could not be stopped in, written so that it can be.
--- core/vm runs it once per VM, before anything else, and puts what it returns in place of LuaJIT's own.
local floor, type, error = math.floor, type, error

---@param raw_xpcall function  LuaJIT's
---@param guard fun(handler: function): function  a handler that does nothing once the script is being stopped: LuaJIT runs
---no hooks in a handler when the error was raised by a hook, so it could not be stopped there
return function(raw_xpcall, guard)
  local function xpcall(f, handler, ...)
    if type(handler) ~= "function" then
      error("bad argument #2 to 'xpcall' (function expected, got " .. type(handler) .. ")", 2)
    end
    return raw_xpcall(f, guard(handler), ...)
  end

  local function less(a, b)
    return a < b
  end

  --- Sifts t[i] down in the heap t[1..n], largest on top.
  local function sift(t, i, n, before)
    local v = t[i]
    while true do
      local child = 2 * i
      if child > n then
        break
      end
      if child < n and before(t[child], t[child + 1]) then
        child = child + 1
      end
      if not before(v, t[child]) then
        break
      end
      t[i] = t[child]
      i = child
    end
    t[i] = v
  end

  local function heap_sort(t, lo, hi, before)
    local n, part = hi - lo + 1, {}
    for i = 1, n do
      part[i] = t[lo + i - 1]
    end
    for i = floor(n / 2), 1, -1 do
      sift(part, i, n, before)
    end
    for last = n, 2, -1 do
      part[1], part[last] = part[last], part[1]
      sift(part, 1, last - 1, before)
    end
    for i = 1, n do
      t[lo + i - 1] = part[i]
    end
  end

  --- Quick sort with the median of three; heap sort where it degenerates, so that no input is slow.
  local function quick_sort(t, lo, hi, before, depth)
    while hi - lo > 12 do
      if depth == 0 then
        return heap_sort(t, lo, hi, before)
      end
      depth = depth - 1
      local mid = floor((lo + hi) / 2)
      if before(t[mid], t[lo]) then
        t[mid], t[lo] = t[lo], t[mid]
      end
      if before(t[hi], t[mid]) then
        t[hi], t[mid] = t[mid], t[hi]
        if before(t[mid], t[lo]) then
          t[mid], t[lo] = t[lo], t[mid]
        end
      end
      local pivot, i, j = t[mid], lo, hi
      while i <= j do
        while before(t[i], pivot) do
          i = i + 1
          if i > hi then
            error("invalid order function for sorting", 3)
          end
        end
        while before(pivot, t[j]) do
          j = j - 1
          if j < lo then
            error("invalid order function for sorting", 3)
          end
        end
        if i <= j then
          t[i], t[j] = t[j], t[i]
          i, j = i + 1, j - 1
        end
      end
      if j - lo < hi - i then -- the smaller side by recursion
        quick_sort(t, lo, j, before, depth)
        lo = i
      else
        quick_sort(t, i, hi, before, depth)
        hi = j
      end
    end
    for i = lo + 1, hi do
      local v, j = t[i], i - 1
      while j >= lo and before(v, t[j]) do
        t[j + 1] = t[j]
        j = j - 1
      end
      t[j + 1] = v
    end
  end

  --- table.sort, interruptible; its comparator may wait.
  local function sort(t, before)
    if type(t) ~= "table" then
      error("bad argument #1 to 'sort' (table expected, got " .. type(t) .. ")", 2)
    elseif before ~= nil and type(before) ~= "function" then
      error("bad argument #2 to 'sort' (function expected, got " .. type(before) .. ")", 2)
    end
    quick_sort(t, 1, #t, before or less, 64)
  end

  return xpcall, sort
end
