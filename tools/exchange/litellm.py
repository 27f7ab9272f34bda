"""LiteLLM's proxy with the configuration of docs/CLIENTS.md: its health check, and examples/litellm_proxy.py behind it.

python litellm.py URL TOKEN FOLDER
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

# This file has the package's name.
sys.path.pop(0)

_HOME = Path(__file__).resolve().parents[2]
_PATIENCE_S = 300
#: The proxy wants a key of its own, and a good one.
_KEY = f"sk-{secrets.token_hex(32)}"


def main(url: str, token: str, folder: Path) -> None:
    [documented] = re.findall(r"```yaml\n(model_list:.*?)```", (_HOME / "docs" / "CLIENTS.md").read_text(), re.DOTALL)
    config = folder / "litellm.yaml"
    config.write_text(documented.replace("http://HOST:8000", url).replace("TOKEN", token))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("litellm")), "--config", str(config), "--port", str(port)]
    log_file = folder / "litellm.log"
    with log_file.open("w") as log:
        proxy = subprocess.Popen(
            [*command, "--host", "127.0.0.1"],
            stdout=log,
            stderr=log,
            cwd=folder,
            env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": _KEY},
        )
    try:
        address = f"http://127.0.0.1:{port}"
        if not _ready(address, proxy):
            raise SystemExit(f"The proxy is not ready: {log_file.read_text()[-2000:]}")
        say("the proxy's `/health` with the configuration of Clients", health(address))
        example = [sys.executable, str(_HOME / "examples" / "litellm_proxy.py")]
        told = {"LITELLM_URL": address, "LITELLM_KEY": _KEY}
        done = subprocess.run(example, env=os.environ | told, stdout=subprocess.PIPE, text=True)
        fine = done.returncode == 0 and done.stdout.endswith("Rated.\n")
        say("examples/litellm_proxy.py through the proxy", "works" if fine else f"fails: {done.stdout[-300:]!r}")
    finally:
        proxy.terminate()
        proxy.wait()


def health(address: str) -> str:
    found: Any = get(f"{address}/health")
    counts = found["healthy_count"], found["unhealthy_count"]
    return "works" if counts == (2, 0) else f"says {found['unhealthy_endpoints']}"[:500]


def get(address: str) -> Any:
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {_KEY}"})
    with urllib.request.urlopen(request, timeout=_PATIENCE_S) as response:
        return json.load(response)


def _ready(address: str, proxy: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + _PATIENCE_S
    while proxy.poll() is None and time.monotonic() < end:
        try:
            get(f"{address}/health/readiness")
        except OSError:
            time.sleep(0.5)
        else:
            return True
    return False


def say(what: str, result: str) -> None:
    sys.stdout.write(json.dumps({"what": what, "version": version("litellm"), "result": result}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:3], Path(sys.argv[3]))
