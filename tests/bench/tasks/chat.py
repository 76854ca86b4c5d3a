"""A chat model, SmolLM2-135M, on real chats and questions.

    python -m tests.bench.tasks.chat packing|recipes [--rows N] [--out FILE]

packing  chats of up to 256 tokens in micro-batches of eight, in ftray's order and in random order,
         each chat in a row of its own and several in a row: the share of padding over all chats;
         tokens per second of forward and backward passes, and the losses, on N of them
recipes  N questions with their answers, learnt by all weights, by the top 4 blocks and by LoRA,
         beside TRL's `SFTTrainer` with the same settings: the loss on 60 other questions, by one
         evaluation for both, tokens per second, and peak memory of the processes. Then the model
         of all weights is served, and OpenAI's client asks it once. Installs TRL and OpenAI's
         client for itself
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftray.data.batches import BatchPlan
from ftray.models.inference.measure import InMemory, measure
from ftray.tasks import get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.features import Batch, Example
from ftray.tasks.text.texts import IDS
from tests.bench.common.contest import SCRIPTS
from tests.bench.common.measure import Sample, table
from tests.bench.tasks import chat_data
from tests.bench.tasks.tasks import speed
from tests.helpers.serving.served import served

TASK = get_task("text-generation")
LENGTH, MICRO = 256, 8
VALIDATION, TEST, SHORT = 16, 60, 128
EPOCHS, BATCH = 2, 16
WARMUP = 0
"""The first step of a warm-up has a learning rate in ftray and none in transformers, which matters
where steps are few."""
TRL, OPENAI = "trl==1.16.0", "openai==3.54.0"
ASK = """
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none")
name = client.models.list().data[0].id
told = {"model": name, "max_tokens": 40, "temperature": 0}
asked = [{"role": "user", "content": sys.argv[2]}]
print(client.chat.completions.create(messages=asked, **told).choices[0].message.content)
"""
WAYS: dict[str, dict[str, Any]] = {
    "all weights": {"learning_rate": 5e-5, "unfreeze": "all"},
    "top 4 blocks": {"learning_rate": 2e-4, "unfreeze": 4, "trunk_cache": "on"},
    "LoRA": {
        "learning_rate": 5e-4,
        "unfreeze": "all",
        "lora": {"rank": 16, "alpha": 32},
    },
}


def setup_of(base: Path, length: int, **options: Any) -> TaskSetup:
    tokenizer = AutoTokenizer.from_pretrained(base)
    chosen = TASK.info.options.model_validate(options)
    return TaskSetup(tokenizer, max_length=length, options=chosen)


def contents(chat: chat_data.Chat) -> list[str]:
    return [turn["content"] for turn in chat["messages"]]


def examples_of(setup: TaskSetup, chats: Sequence[chat_data.Chat]) -> Any:
    rows = [TASK.parse(chat) for chat in chats]
    return TASK.examples(setup, {name: [row[name] for row in rows] for name in rows[0]})


# packing


@dataclass
class Way:
    """What was measured of one layout of the same micro-batches. losses: of each example."""

    make: Callable[[Sequence[Example]], Batch]
    seconds: list[float] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)

    def run(self, model: Any, examples: Sequence[Example]) -> None:
        batch = self.make(examples)
        started = time.perf_counter()
        losses = TASK.losses(TASK.forward(model, batch.inputs), batch)
        losses.sum().backward()
        self.seconds.append(time.perf_counter() - started)
        self.losses.append(losses.detach())
        model.zero_grad()

    def padding(self, micro_batches: Sequence[Sequence[Example]]) -> float:
        """The share of padding in the batches."""
        cells = sum(self.make(examples).inputs[IDS].numel() for examples in micro_batches)
        return 1 - sum(len(e[IDS]) for examples in micro_batches for e in examples) / cells


def packing(folder: Path, rows: int) -> str:
    base = chat_data.smollm2(folder / "base")
    setup = setup_of(base, LENGTH, learn="all", packing=True)
    # A token has four characters or so.
    short = [c for c in chat_data.chats() if sum(map(len, contents(c))) <= 5 * LENGTH]
    made = examples_of(setup, short)
    whole = [e for e, size in zip(made.each(), made.lengths, strict=True) if size <= LENGTH]
    lengths = np.array([len(example[IDS]) for example in whole])
    tokens = ", ".join(f"{value:.0f}" for value in np.percentile(lengths, (10, 50, 90)))
    print(f"{len(whole)} chats of {tokens} tokens (10th, 50th, 90th percentile)", flush=True)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    pack = TASK.packing(model, setup)
    assert pack is not None
    lines = []
    for order, like in (("ftray's, by length", lengths), ("random", np.ones_like(lengths))):
        plan = BatchPlan(like, 32, MICRO, seed=0)
        parts = [part for batch in plan.batches(0) for _, part in plan.chunks(batch, 0, 1)]
        micro = [[whole[place] for place in part] for part in parts if len(part) == MICRO]
        layouts = {"a row each": Way(lambda e: TASK.collate(setup, e)), "packed": Way(pack)}
        tried = micro[: max(1, rows // MICRO)]
        for number, examples in enumerate([tried[0], *tried]):  # the first is a warm-up
            for layout in list(layouts.values())[:: 1 if number % 2 else -1]:
                layout.run(model, examples)
        lines += _lines(order, layouts, micro, tried)
    header = ["order", "layout", "padding", "tokens/s", "packed / a row each", "loss gap a token"]
    return table(header, lines)


def _lines(
    order: str,
    layouts: dict[str, Way],
    micro: Sequence[Sequence[Example]],
    tried: Sequence[Sequence[Example]],
) -> list[list[str]]:
    alone, packed = layouts.values()
    tokens = [sum(len(example[IDS]) for example in examples) for examples in tried]
    ratio = Sample(tuple(alone.seconds[1:])).over(Sample(tuple(packed.seconds[1:])))
    learnt = torch.tensor([e["learnt_tokens"] for examples in tried for e in examples])
    gaps = (torch.cat(alone.losses[1:]) - torch.cat(packed.losses[1:])).abs() / learnt
    found = []
    for name, layout in layouts.items():
        told = [f"{layout.padding(micro):.1%}", f"{sum(tokens) / sum(layout.seconds[1:]):.0f}"]
        is_packed = layout is packed
        compared = [ratio.median_and_range(2), f"{gaps.max():.1e}"] if is_packed else ["", ""]
        found.append([order, name, *told, *compared])
    return found


# recipes


def recipes(folder: Path, rows: int) -> str:
    base = chat_data.smollm2(folder / "base")
    chats = chat_data.questions()[: rows + VALIDATION + TEST]
    parts = {"test": chats[:TEST], "validation": chats[TEST:][:VALIDATION]}
    parts["train"] = chats[TEST + VALIDATION :]
    for name, part in parts.items():
        chat_data.write(folder / f"{name}.jsonl", part)
    trl = chat_data.installed(folder / "trl", TRL)
    setup = setup_of(base, SHORT)
    held_out = InMemory(examples_of(setup, parts["test"]), TASK, setup)
    sizes = [len(ids) for ids in examples_of(setup, parts["train"]).features[IDS]]
    print(f"{rows} questions, {np.mean(sizes):.0f} tokens each with their answers", flush=True)
    before, lines, models = loss_of(base, setup, held_out), [], {}
    lines.append(["", "before the training", f"{before:.4f}", "", "", ""])
    for way, train in WAYS.items():
        for name, run in (("ftray", ftray), ("TRL", trl_from(trl))):
            model, each_second, seconds, peak = run(folder, way, train)
            models[name, way] = model
            loss = loss_of(model, setup, held_out)
            told = [f"{loss:.4f}", f"{each_second * np.mean(sizes):.0f}", f"{seconds:.0f}"]
            lines.append([way, name, *told, f"{peak:,.0f}"])
            print(lines[-1], flush=True)
    question = parts["test"][0]["messages"][0]["content"]
    answer = ask(folder, models["ftray", "all weights"], question)
    header = ["what trains", "", "held-out loss", "tokens/s", "seconds in all", "peak MB"]
    return f"{table(header, lines)}\n\n{question!r} is answered {answer!r}"


def loss_of(folder: Path, setup: TaskSetup, split: InMemory) -> float:
    """The mean loss of the tokens of the answers, of a model that is loaded in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        found = measure(model, TASK, setup, split, torch.device("cpu"), BATCH)
    return float(found.metrics["loss"])


Told = tuple[Path, float, float, float]
"""The model's folder, rows per second of the steps, seconds of the command, peak MB."""


def ftray(folder: Path, way: str, train: dict[str, Any]) -> Told:
    data = {part: str(folder / f"{part}.jsonl") for part in ("train", "validation", "test")}
    tree = {
        "name": way.replace(" ", "-").lower(),
        "task": "text-generation",
        "storage": str(folder / "storage"),
        "model": {"name_or_path": str(folder / "base")},
        "data": {**data, "columns": {"messages": "messages"}, "max_length": SHORT},
        "train": {"epochs": EPOCHS, "batch_size": BATCH, "micro_batch_size": MICRO,
                  "precision": "bf16", "deepspeed": {"stage": 0}, "baselines": False,
                  "warmup": WARMUP, **train},
        "scale": {"workers": 1, "cpus_per_worker": os.cpu_count()},
    }  # fmt: skip
    spec = folder / f"{tree['name']}.yaml"
    spec.write_text(json.dumps(tree))
    result, seconds, peak = watched([sys.executable, "-m", "ftray", "train", str(spec), "--json"])
    lines = (Path(result["run_dir"]) / "metrics.jsonl").read_text().splitlines()
    return Path(result["model_dir"]), speed([json.loads(line) for line in lines]), seconds, peak


def trl_from(packages: Path) -> Callable[[Path, str, dict[str, Any]], Told]:
    def run(folder: Path, way: str, train: dict[str, Any]) -> Told:
        out = folder / f"trl-{way.replace(' ', '-').lower()}"
        shared = {
            "epochs": EPOCHS,
            "batch": BATCH,
            "micro": MICRO,
            "length": SHORT,
            "warmup": WARMUP,
        }
        told = json.dumps({**shared, **train, "folder": str(folder), "out": str(out)})
        script = [sys.executable, str(SCRIPTS / "sft_trl.py"), told]
        result, seconds, peak = watched(script, {"PYTHONPATH": str(packages)})
        return out, result["rows_per_second"], seconds, peak

    return run


def watched(
    command: list[str], environment: dict[str, str] | None = None
) -> tuple[dict[str, Any], float, float]:
    """Run a command; returns the JSON of its last line, its seconds, and the peak memory of its
    processes in MB, in which pages that several of them share count once (PSS)."""
    peak, started = [0.0], time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with watching(psutil.Process(process.pid), peak):
        out, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.splitlines()[-1]), time.perf_counter() - started, peak[0]


@contextmanager
def watching(root: psutil.Process, peak: list[float]) -> Iterator[None]:
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            total = 0
            with suppress(psutil.NoSuchProcess):
                for process in (root, *root.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        total += process.memory_full_info().pss
            peak[0] = max(peak[0], total / 1e6)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def ask(folder: Path, model: Path, question: str) -> str:
    """Serve the model, and ask it by OpenAI's client."""
    packages = chat_data.installed(folder / "openai", OPENAI, alone=False)
    with served(model) as (url, _):
        command = [sys.executable, "-c", ASK, url, question]
        environment = {**os.environ, "PYTHONPATH": str(packages)}
        done = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("what", choices=("packing", "recipes"))
    parser.add_argument("--rows", type=int, help="48 for packing, 96 for recipes")
    parser.add_argument("--folder", type=Path, help="keeps models and runs there")
    options = parser.parse_args()
    run, rows = {"packing": (packing, 48), "recipes": (recipes, 96)}[options.what]
    with tempfile.TemporaryDirectory(prefix="ftray-chat-") as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        print(run(folder, options.rows or rows), flush=True)


if __name__ == "__main__":
    main()
