"""A stream that waits, as the official client sees it: run by spec/e2e/stream_spec.lua as `openai_wait.py URL stream`."""

import json
import sys
import time

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, timeout=10)  # seconds of silence
out = {"text": "", "roles": [], "finish": [], "usage": None}
began = time.monotonic()
try:
    with client.chat.completions.with_streaming_response.create(
        model="smol", messages=[{"role": "user", "content": "Hello"}], max_tokens=6, stream=True,
        stream_options={"include_usage": True},
    ) as response:
        out["start"] = response.headers.get("x-moonpool-start")
        for chunk in response.parse():
            for c in chunk.choices:
                out["roles"] += [c.delta.role] if c.delta.role else []
                out["text"] += c.delta.content or ""
                out["finish"] += [c.finish_reason] if c.finish_reason else []
            out["usage"] = chunk.usage.model_dump() if chunk.usage else out["usage"]
except openai.APIError as error:
    out = {"class": type(error).__name__, "code": error.code, "type": error.type, "message": error.message}
out["seconds"] = time.monotonic() - began
print(json.dumps(out))
