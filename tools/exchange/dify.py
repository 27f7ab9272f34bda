"""Dify's plugins themselves, saved and asked as Dify does: `DIFY_PLUGINS=CLONE python dify.py URL TOKEN FOLDER`."""

from __future__ import annotations

import importlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

#: A plugin's folder, its class, what is entered when it is saved, and where its models are imported from.
PLUGINS = (
    ("huggingface_tei", "HuggingfaceTeiRerankModel", {}),
    ("xinference", "XinferenceRerankModel", {"model_uid": "any"}),
    ("openai_api_compatible", "OpenAIRerankModel", {"endpoint_model_name": "any"}),
)
DOCUMENTS = ["Museums open at ten.", "Rest in a dark room, and drink water."]


def tried(folder: Path, name: str, given: dict[str, Any], url: str, token: str) -> str:
    sys.path.insert(0, str(folder))
    for module in [each for each in sys.modules if each.split(".")[0] == "models"]:
        del sys.modules[module]
    try:
        model: Any = getattr(importlib.import_module("models.rerank.rerank"), name)([])
        entered = {"server_url": url, "endpoint_url": f"{url}/v1", "api_key": token, **given}
        model.validate_credentials("any", entered)
        found = model.invoke("any", entered, "What helps against a migraine attack?", DOCUMENTS, top_n=2)
        scores = [each.score for each in found.docs]
        fine = [each.text for each in found.docs] == DOCUMENTS[::-1] and scores[0] > scores[1]
        return "works" if fine else f"gives {found.docs}"
    except Exception as error:  # whatever the plugin makes of it, the table says it
        return f"fails: {type(error).__name__}: {error}"[:300]
    finally:
        sys.path.remove(str(folder))


if __name__ == "__main__":
    clone = Path(os.environ["DIFY_PLUGINS"])
    for plugin, name, given in PLUGINS:
        what = f"its plugin {plugin}: saved, and asked to rank"
        result = tried(clone / "models" / plugin, name, given, *sys.argv[1:3])
        sys.stdout.write(json.dumps({"what": what, "version": version("dify-plugin"), "result": result}) + "\n")
