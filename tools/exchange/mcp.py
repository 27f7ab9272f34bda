"""The official SDK's client on `rlhf-loop mcp`, as an assistant runs it: `python mcp.py URL TOKEN FOLDER`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib.metadata import version

# This file has the package's name.
sys.path.pop(0)


async def tried(folder: str) -> str:
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    environ = {
        **os.environ,
        "RLHF_DATABASE_URL": f"sqlite:///{folder}/rlhf.db",
        "RLHF_MODEL_PATH": f"{folder}/reward_model.joblib",
        "RLHF_SOURCES": "tools.fuzz:source",
        "RLHF_OUTBOX_PATH": f"{folder}/mcp_outbox.db",
    }
    environ = {name: value for name, value in environ.items() if name != "RLHF_EXCHANGE_PYTHON"}
    started = StdioServerParameters(
        command=sys.executable, args=["-c", "from rlhf_loop.cli import main; main()", "mcp"], env=environ, cwd=folder
    )
    async with stdio_client(started) as (reads, writes), ClientSession(reads, writes) as session:
        await session.initialize()
        found = await session.call_tool("answer", {"question": "What helps against a migraine attack?"})
        best = found.structured_content["answers"][0]
        ranked = await session.call_tool("rerank", {"query": "What helps?", "documents": ["Rest.", "Museums."]})
        said = await session.call_tool("rate", {"interaction_id": best["interaction_id"], "rating": 5})
    fine = len(ranked.structured_content["result"]) == 2 and said.structured_content == {"result": "Stored."}
    return "works" if fine else f"gives {ranked.structured_content}, {said.content}"


if __name__ == "__main__":
    result = asyncio.run(tried(sys.argv[3]))
    line = {"what": "`rlhf-loop mcp` over stdio: answer, rerank, rate", "version": version("mcp"), "result": result}
    sys.stdout.write(json.dumps(line) + "\n")
