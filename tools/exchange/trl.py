"""A few steps of GRPO and RLOO by the live model, on a tiny random one: `python trl.py URL TOKEN FOLDER`."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

# This file has the package's name.
sys.path.pop(0)

QUESTIONS = ("What helps against a migraine attack?", "What is flu?", "Why do we yawn?", "What helps against hiccups?")
_TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.role }} {{ message.content }} <|im_end|> {% endfor %}"
_TEMPLATE += "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"


def tiny() -> tuple[Any, Any]:
    """Return a model of a few thousand random weights, and a tokenizer that knows some words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = sorted({word.strip("?") for question in QUESTIONS for word in question.split()})
    words += "rest dark room drink water slowly the a it is for and virus doctor user assistant ?".split()  # noqa: SIM905
    names = ["<unk>", "<pad>", "<|im_start|>", "<|im_end|>", *dict.fromkeys(words)]
    plain = Tokenizer(WordLevel({word: place for place, word in enumerate(names)}, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    plain.add_special_tokens(names[:4])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", pad_token="<pad>", eos_token="<|im_end|>", padding_side="left"
    )
    tokenizer.chat_template = _TEMPLATE
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(names), max_position_embeddings=128, pad_token_id=1, eos_token_id=3, **shape)
    return LlamaForCausalLM(config), tokenizer


def tried(kind: str, folder: str, *, talk: bool) -> str:
    """Train for three steps; say whether rewards were given, and a policy came of it."""
    import trl
    from datasets import Dataset

    from rlhf_loop.adapters.trl import RewardFunction
    from rlhf_loop.config import Settings
    from rlhf_loop.ranking import Ranker

    model, tokenizer = tiny()
    prompts = [[{"role": "user", "content": each}] if talk else each for each in QUESTIONS]
    reward = RewardFunction(ranker=Ranker(Settings(model_path=Path(folder) / "reward_model.joblib")))
    with tempfile.TemporaryDirectory() as output:
        options: dict[str, float] = {
            "max_steps": 3,
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "max_completion_length": 12,
        }
        # Without a penalty there is no model of reference, which would have to be in a folder.
        options["beta"] = 0.0
        args = getattr(trl, f"{kind}Config")(
            output_dir=output,
            report_to="none",
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            bf16=False,
            **options,
        )
        trainer = getattr(trl, f"{kind}Trainer")(
            model=model,
            reward_funcs=reward,
            args=args,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
        )
        trainer.train()
        logged = [line["reward"] for line in trainer.state.log_history if "reward" in line]
    asked = {answer.prompt for answer in reward.seen}
    fine = len(logged) == 3 and all(map(math.isfinite, logged)) and asked <= set(QUESTIONS) and len(reward.seen) >= 12
    return "works" if fine else f"logged {logged}, asked {sorted(asked)}"


if __name__ == "__main__":
    for kind, talk in (("GRPO", True), ("GRPO", False), ("RLOO", True)):
        what = f"`{kind}Trainer(reward_funcs=RewardFunction())`, three steps, {'messages' if talk else 'texts'}"
        line = {"what": what, "version": version("trl"), "result": tried(kind, sys.argv[3], talk=talk)}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
