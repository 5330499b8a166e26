"""What the official client sees: run by spec/e2e/openai_spec.lua as `openai_client.py URL`, prints one JSON object."""

import asyncio
import json
import sys

import openai

URL = sys.argv[1] + "/v1"
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=120)
ASK = {
    "model": "smollm2",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour, then another."}],
    "temperature": 0,
    "max_tokens": 12,
}


def usage(u):
    return None if u is None else [u.prompt_tokens, u.completion_tokens, u.total_tokens]


def problem(error):
    return {
        "class": type(error).__name__,
        "status": error.status_code,
        "code": error.code,
        "param": error.param,
        "type": error.type,
        "message": error.body["message"],
    }


def failing(**more):
    try:
        client.chat.completions.create(**{**ASK, **more})
    except openai.APIStatusError as error:
        return problem(error)


def chat():
    r = client.chat.completions.create(**ASK)
    c = r.choices[0]
    return {"id": r.id, "object": r.object, "model": r.model, "role": c.message.role, "text": c.message.content,
            "finish": c.finish_reason, "usage": usage(r.usage), "choices": len(r.choices)}


def stream():
    out = {"text": "", "roles": [], "finish": [], "usage": None, "ids": []}
    for chunk in client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}):
        out["ids"].append(chunk.id)
        for c in chunk.choices:
            out["roles"] += [c.delta.role] if c.delta.role else []
            out["text"] += c.delta.content or ""
            out["finish"] += [c.finish_reason] if c.finish_reason else []
        out["usage"] = usage(chunk.usage) or out["usage"]
    out["ids"] = len(set(out["ids"]))
    return out


async def side_by_side():
    several = openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0, timeout=120)
    answers = await asyncio.gather(*(several.chat.completions.create(**ASK) for _ in range(4)))
    await several.close()
    return [r.choices[0].message.content for r in answers]


text = client.completions.create(model="smollm2", prompt="The capital of France is", temperature=0, max_tokens=4)
parts = client.completions.create(model="smollm2", prompt="The capital of France is", temperature=0, max_tokens=4, stream=True)
seeded = [
    client.chat.completions.create(**{**ASK, "temperature": 1, "seed": 7, "top_p": 0.9}).choices[0].message.content for _ in range(2)
]
whole = chat()
stopper = whole["text"][2:5]
stopped = client.chat.completions.create(**ASK, stop=["\0never\0", stopper]).choices[0]

print(json.dumps({
    "models": [m.id for m in client.models.list()],
    "model": client.models.retrieve("gpt-4o-mini").id,
    "chat": whole,
    "stream": stream(),
    "alias": client.chat.completions.create(**{**ASK, "model": "gpt-4o-mini"}).choices[0].message.content,
    "side_by_side": asyncio.run(side_by_side()),
    "completion": {"text": text.choices[0].text, "finish": text.choices[0].finish_reason, "usage": usage(text.usage)},
    "completion_stream": "".join(p.choices[0].text for p in parts if p.choices),
    "seeded": seeded,
    "stopper": stopper,
    "stopped": {"text": stopped.message.content, "finish": stopped.finish_reason},
    "unknown": failing(model="gpt-9"),
    "unknown_stream": failing(model="gpt-9", stream=True),
    "hot": failing(temperature=9),
    "tools": failing(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]),
    "too_long": failing(messages=[{"role": "user", "content": "word " * 9000}]),
}))
