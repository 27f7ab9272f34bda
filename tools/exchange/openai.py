"""The official client on best of n, and rating by it: `python openai.py URL TOKEN FOLDER`."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

# This file has the package's name.
sys.path.pop(0)

ASKED: dict[str, Any] = {
    "model": "rlhf-loop",
    "messages": [{"role": "user", "content": "What helps against a stiff neck?"}],
}


def tried(url: str, token: str, *, stream: bool) -> str:
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key=token)
    if stream:
        chunks = list(client.chat.completions.create(**ASKED, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        id, drafts = chunks[0].id, 4
    else:
        raw = client.chat.completions.with_raw_response.create(**ASKED, n=2)
        found = raw.parse()
        text, id, drafts = found.choices[0].message.content, found.id, found.to_dict()["rlhf"]["drafts"]
        if raw.headers["x-rlhf-ranking-id"] != id or len(found.choices) != 2:
            return f"gives {found}"
    said: Any = client.post("/feedback", cast_to=object, body={"ranking": id, "index": 0, "rating": 4, "reviewer": "o"})
    return "works" if text and said["rating"] == 4 and drafts == 4 else f"gives {text!r}, {said}"


if __name__ == "__main__":
    for stream in (False, True):
        what = f"`chat.completions.create({'stream=True' if stream else 'n=2'})`, a draft rated by the answer's id"
        line = {"what": what, "version": version("openai"), "result": tried(*sys.argv[1:3], stream=stream)}
        sys.stdout.write(json.dumps(line) + "\n")
