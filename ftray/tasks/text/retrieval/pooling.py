"""Pooling: makes one vector of the states of a text's tokens. The way is read with the base model,
kept in the model's config, and written as sentence-transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftray.errors import ModelError

if TYPE_CHECKING:
    import torch

KEPT = "sentence_pooling"
"""Entry of a model's config that names its pooling."""
USAGE = f"""\
import torch
from transformers import AutoModel, AutoTokenizer

folder = "PATH OF THIS FOLDER"
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
batch = tokenizer(["A text.", "Another."], padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    states = model(**batch).last_hidden_state
mask = batch["attention_mask"]
pooled = {{
    "mean": (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
    "cls": states[:, 0],
    "last": states[torch.arange(len(states)), mask.sum(1) - 1],
}}[model.config.{KEPT}]
embeddings = torch.nn.functional.normalize(pooled)
print(embeddings @ embeddings.T)  # cosine of each two texts"""
_FOLDER, _MODULES = "1_Pooling", "modules.json"
_THEIRS = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
_TYPES = "sentence_transformers.models."
_READ = ("Transformer", "Pooling", "Normalize")


def read_pooling(folder: Path) -> str:
    """Return the pooling of the model in a folder: as sentence-transformers wrote it there, else
    the mean over the tokens. Raises ModelError for a pooling, or a part behind it, of another
    kind."""
    for part in _json(folder / _MODULES, []):
        kind = str(part.get("type", "")).rpartition(".")[2]
        if kind not in _READ:
            raise _refused(folder, f"its {_MODULES} has a {kind} behind the model")
    told = _json(folder / _FOLDER / "config.json", {})
    chosen = {told["pooling_mode"]} if isinstance(told.get("pooling_mode"), str) else set()
    chosen |= {name.removeprefix("pooling_mode_") for name, value in told.items() if value is True}
    chosen -= {"include_prompt"}
    known = {theirs: ours for ours, name in _THEIRS.items() for theirs in (name, ours)}
    if len(chosen) > 1 or chosen - known.keys():
        raise _refused(folder, f"its {_FOLDER} pools by {' and '.join(sorted(chosen))}")
    return known[chosen.pop()] if chosen else "mean"


def pooled(states: torch.Tensor, mask: torch.Tensor, how: str) -> torch.Tensor:
    """Return one vector of length 1 a text, (B, D) float32. states: (B, T, D); mask: (B, T)."""
    import torch

    states = states.float()
    if how == "mean":
        weights = mask[..., None].to(states)
        found = (states * weights).sum(1) / weights.sum(1)
    else:
        places = mask.sum(1) - 1 if how == "last" else torch.zeros_like(mask[:, 0])
        found = states[torch.arange(len(states), device=states.device), places]
    return torch.nn.functional.normalize(found, dim=-1)


def files(how: str, width: int, most_tokens: int) -> dict[str, Any]:
    """Return the files by which sentence-transformers opens a model folder: name -> JSON. width:
    numbers of a vector; most_tokens: length to which a text is cut."""
    parts = {"Transformer": "", "Pooling": _FOLDER, "Normalize": "2_Normalize"}
    return {
        _MODULES: [
            {"idx": place, "name": str(place), "path": path, "type": _TYPES + kind}
            for place, (kind, path) in enumerate(parts.items())
        ],
        f"{_FOLDER}/config.json": {
            "word_embedding_dimension": width,
            **{f"pooling_mode_{theirs}": ours == how for ours, theirs in _THEIRS.items()},
        },
        "sentence_bert_config.json": {"max_seq_length": most_tokens, "do_lower_case": False},
    }


def _json(file: Path, otherwise: Any) -> Any:
    """Return the content of a JSON file; `otherwise` where it is not there or of another type."""
    if not file.is_file():
        return otherwise
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refused(file.parent, f"its {file.name} is not JSON: {error}") from None
    return told if isinstance(told, type(otherwise)) else otherwise


def _refused(folder: Path, problem: str) -> ModelError:
    fix = "name a model that takes the mean, the first or the last token"
    return ModelError.of("model.name_or_path", str(folder), problem, fix)
