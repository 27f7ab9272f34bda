"""ChatOpenAI on best of n: the best of several drafts is the answer, and what is said of it teaches the next training.

    pip install langchain-openai
    LOOP_URL=http://127.0.0.1:8000 LOOP_TOKEN=rlhf_... python langchain_best_of.py

The service needs RLHF_LLM_URL, the token the scopes chat and reviews:write.
"""

from __future__ import annotations

import os

import httpx
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

URL, TOKEN = os.environ["LOOP_URL"], os.environ["LOOP_TOKEN"]
QUESTION = "How is a small burn cooled?"

model = ChatOpenAI(model="rlhf-loop", base_url=f"{URL}/v1", api_key=TOKEN, extra_body={"best_of": 4})
prompt = ChatPromptTemplate.from_messages([("system", "Answer in one sentence."), ("user", "{question}")])

if __name__ == "__main__":
    answer = (prompt | model).invoke({"question": QUESTION})
    print(StrOutputParser().invoke(answer))
    # The answer's id is that of the ranking of its drafts; the one that went out needs no index.
    said = {"ranking": answer.response_metadata["id"], "thumb": "up", "reviewer": "patient-7"}
    httpx.post(f"{URL}/v1/feedback", json=said, headers={"Authorization": f"Bearer {TOKEN}"}).raise_for_status()
    print("Rated.")
