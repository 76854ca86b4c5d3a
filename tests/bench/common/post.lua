-- For wrk: posts the lines of the file $REQUESTS, each a path, a tab and a body, one after the
-- other; the last line that it prints is one JSON object.
local requests = {}
local at = 0

function init()
   for line in io.lines(os.getenv("REQUESTS")) do
      local headers = { ["Content-Type"] = "application/json" }
      local path, body = line:match("^([^\t]*)\t(.*)$")
      requests[#requests + 1] = wrk.format("POST", path, headers, body)
   end
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function done(summary, latency)
   local e = summary.errors
   local template = '{"rate": %.2f, "p50": %.2f, "p95": %.2f, "p99": %.2f, "errors": %d}\n'
   io.write(template:format(
      summary.requests / summary.duration * 1e6,
      latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000,
      e.connect + e.read + e.write + e.status + e.timeout))
end
