--- The decisions that moonpool makes when nobody else does. Made to be copied: put what you need into an `mp.policy "mine" { … }` of your
--- own, name it in mp.server { policy = "mine" }, and leave out the slots that shall stay as they are. A policy may call these too:
---
---     local default = require "moonpool.policy.default"
---     mp.policy "mine" {
---       scale = function(pool, now, state)
---         if pool.name == "big" then return 0, "never without being asked for" end
---         return default.scale(pool, now, state)
---       end,
---     }
---
--- Each function is pure: it sees its arguments and nothing else, and answers with a decision and a reason. What it is given is described
--- in lua/moonpool/api.lua: moonpool.Pool (a model at this moment), moonpool.Call (a request for one). One that raises, takes longer than
--- mp.server's limits.burst or answers nonsense does not count: the function below does, for that decision.
local M = {}

--- How many replicas shall there be? Asked on the control thread whenever something has changed. The answer is then held to min_replicas
--- and max_replicas. `state` is a table of its own for each model: what is put into it comes back next time, also after a reload.
---@param pool moonpool.Pool
---@return integer replicas
---@return string reason
function M.scale(pool)
  local demand = pool.in_flight + pool.queued
  if demand > 0 then
    return math.ceil(demand / pool.target_concurrency), "demand"
  end
  if pool.replicas > 0 and pool.idle < pool.scaledown_window then
    return 1, "within scaledown_window"
  end
  return 0, "idle"
end

--- Who leaves the device, so that `need` bytes come free? The candidates hold pool.memory bytes each. Those that are not in use go before
--- those that are, those that are not to be kept warm (min_replicas) before those that are, and then the least recently used first;
--- nobody goes for whom the others do without.
---@param candidates moonpool.Pool[]
---@param need integer bytes
---@return string[] names
---@return string reason
function M.evict(candidates, need)
  local function busy(pool)
    return pool.in_flight + pool.queued > 0
  end
  local order = {}
  for i, pool in ipairs(candidates) do
    order[i] = pool
  end
  table.sort(order, function(a, b)
    if busy(a) ~= busy(b) then
      return busy(b)
    elseif (a.min_replicas > 0) ~= (b.min_replicas > 0) then
      return b.min_replicas > 0
    elseif a.idle ~= b.idle then
      return a.idle > b.idle
    end
    return a.name < b.name
  end)
  local freed, n = 0, 0
  while n < #order and freed < need do
    n = n + 1
    freed = freed + order[n].memory
  end
  if freed < need then
    return {}, "not even all of them would do"
  end
  local names = {}
  for i = n, 1, -1 do -- of those, whoever is worth most stays if the others do
    if freed - order[i].memory >= need then
      freed = freed - order[i].memory
    else
      table.insert(names, 1, order[i].name)
    end
  end
  return names, "least recently used"
end

--- Shall this request be taken? "accept"; "queue": behind everything that is accepted; or nil and an error, which the handler gets (a
--- text, or { code, message, status, retry_after }; by default code "refused" and status 429). A full queue is refused later, without
--- being asked for.
---@return "accept"
function M.admit()
  return "accept"
end

--- Which of the waiting requests gets a place first? Higher before lower, from -1000 to 1000; equals in the order in which they came.
--- Asked once, when it comes.
---@param job moonpool.Call
---@return number priority
function M.rank(job)
  return job.priority
end

--- Which model answers? candidates[1] is the one that was asked for, the others follow in the order of their declaration.
---@param candidates moonpool.Pool[]
---@return string name
function M.route(_, candidates)
  return candidates[1].name
end

return M
