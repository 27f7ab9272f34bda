"""Behind LiteLLM's proxy: documents are ranked and a chat is answered, and both are rated by their ids.

    pip install 'litellm[proxy]' openai
    LITELLM_MASTER_KEY=sk-... litellm --config config.yaml    # that of docs/CLIENTS.md, with address and token
    export LOOP_URL=http://127.0.0.1:8000 LOOP_TOKEN=rlhf_... LITELLM_URL=http://127.0.0.1:4000 LITELLM_KEY=sk-...
    python litellm_proxy.py

The token needs the scopes rerank, chat and reviews:write, and --record 1, or nothing that is ranked can be rated.
"""

from __future__ import annotations

import os

import httpx
from openai import OpenAI

URL, TOKEN, PROXY = os.environ["LOOP_URL"], os.environ["LOOP_TOKEN"], os.environ["LITELLM_URL"]
KEY = os.environ["LITELLM_KEY"]
QUESTION = "What helps against a nosebleed?"
DOCUMENTS = ["Lean your head far back.", "Lean forward and pinch the nose for ten minutes.", "Museums open at ten."]


def rate(**said: object) -> None:
    """Tell the service itself: the proxy has no address for it."""
    found = httpx.post(f"{URL}/v1/feedback", json=said, headers={"Authorization": f"Bearer {TOKEN}"})
    found.raise_for_status()


if __name__ == "__main__":
    asked = {"model": "rlhf-rerank", "query": QUESTION, "documents": DOCUMENTS}
    ranked = httpx.post(f"{PROXY}/rerank", json=asked, headers={"Authorization": f"Bearer {KEY}"}, timeout=60).json()
    best = ranked["results"][0]
    print(f"{best['relevance_score']:.2f}  {DOCUMENTS[best['index']]}")
    # By the indexes of the request's list.
    rate(ranking=ranked["id"], index=1, rating=5, reviewer="patient-7")
    rate(ranking=ranked["id"], index=0, thumb="down", reviewer="patient-7")

    chat = OpenAI(base_url=PROXY, api_key=KEY)
    answer = chat.chat.completions.create(model="rlhf-best-of", messages=[{"role": "user", "content": QUESTION}])
    print(answer.choices[0].message.content)
    rate(ranking=answer.id, thumb="up", reviewer="patient-7")
    print("Rated.")
