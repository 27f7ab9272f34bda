"""Settings: read once, at the edge, from a mapping of environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

import platformdirs

from rlhf_loop.errors import ConfigError

PREFIX = "RLHF_"


def _setting(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


def _cache_dir() -> Path:
    return Path(platformdirs.user_cache_dir("rlhf-loop"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. Field `database_url` is the variable `RLHF_DATABASE_URL`, and so on."""

    database_url: str = _setting(
        "sqlite:///rlhf.db",
        "SQLAlchemy URL of the ratings database: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.",
    )
    model_path: Path = _setting(Path("reward_model.joblib"), "The live reward model file.")
    cache_dir: Path = field(
        default_factory=_cache_dir,
        metadata={"help": "Folder of the encoder graph and the vector cache. Default: the user's cache folder."},
    )
    cache_max_mb: int = _setting(
        2000, "Megabytes that the vector cache may have; 2,000 hold the passages of some 300,000 answers."
    )
    encoder_path: Path | None = _setting(
        None, "Local folder with all-MiniLM-L6-v2 (model.safetensors, tokenizer.json); it comes before any package."
    )
    encoder_runtime: str = _setting(
        "onnxruntime",
        "What runs the encoder: onnxruntime, or sentence-transformers with the extra [torch].",
    )
    encoder_precision: str = _setting(
        "auto", "Its numbers: fp32, int8 (onnxruntime only), or auto: int8 where the processor is made for it."
    )
    encoder_threads: int = _setting(0, "Threads of the encoder; 0 means one for each core.")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from `environ` (default: the process's environment).

        Raises:
            ConfigError: an unknown `RLHF_*` variable, or a value of the wrong type.
        """
        environ = os.environ if environ is None else environ
        known = {PREFIX + f.name.upper(): f for f in fields(cls)}
        values: dict[str, Any] = {}
        for name, text in environ.items():
            if not name.startswith(PREFIX):
                continue
            if name not in known:
                raise ConfigError(f"Unknown setting {name}={text!r}. Known settings: {', '.join(sorted(known))}.")
            values[known[name].name] = _parse(name, text, known[name])
        return cls(**values)


def _parse(name: str, text: str, setting: Field[Any]) -> Any:
    kind = str(setting.type)
    if not text.strip():
        raise ConfigError(f"{name} is set but empty. Give it a value, or unset it for the default.")
    if kind == "int":
        try:
            number = int(text)
        except ValueError:
            number = -1
        if number < 0:
            raise ConfigError(f"{name}={text!r} is not a whole number from 0 on. Give it one, or unset it.")
        return number
    return Path(text) if "Path" in kind else text
