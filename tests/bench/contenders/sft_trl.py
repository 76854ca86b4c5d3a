"""Fine-tunes a chat model with TRL's `SFTTrainer` and the settings of a run of ftray, for chat.py.

    python tests/bench/contenders/sft_trl.py JSON

Prints {"rows_per_second"} of the steps without the first, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Times(TrainerCallback):
    """The moment at which each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())


def main() -> None:
    told = json.loads(sys.argv[1])
    base = Path(told["folder"]) / "base"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = None
    if "lora" in told:
        rank, alpha = told["lora"]["rank"], told["lora"]["alpha"]
        lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear")
    elif told["unfreeze"] != "all":
        # As in ftray: the top blocks, and the norm above them.
        model.requires_grad_(False)
        for module in (*model.model.layers[-told["unfreeze"] :], model.model.norm):
            module.requires_grad_(True)
    lines = (Path(told["folder"]) / "train.jsonl").read_text().splitlines()
    chats = [json.loads(line)["messages"] for line in lines]
    rows = [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats]
    times = Times()
    trainer = SFTTrainer(
        model,
        SFTConfig(
            output_dir=told["out"],
            num_train_epochs=told["epochs"],
            per_device_train_batch_size=told["micro"],
            gradient_accumulation_steps=told["batch"] // told["micro"],
            learning_rate=told["learning_rate"],
            lr_scheduler_type="linear",
            warmup_steps=told["warmup"],
            weight_decay=0.01,
            max_grad_norm=1.0,
            optim="adamw_torch",
            max_length=told["length"],
            gradient_checkpointing=False,
            bf16=True,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=42,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=lora,
        callbacks=[times],
    )
    trainer.train()
    seconds = times.ends[-1] - times.ends[0]
    trained = trainer.model.merge_and_unload() if lora else trainer.model
    trained.save_pretrained(told["out"])
    done = told["epochs"] * len(rows) * (len(times.ends) - 1) / len(times.ends)
    print(json.dumps({"rows_per_second": done / seconds}))


if __name__ == "__main__":
    main()
