"""The models that a process holds: equal weights and equal tokenizers lie in memory once."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ftray import digest
from ftray.models.inference.loaded import LoadedModel
from ftray.models.sharing.prefix_hash import fingerprints, trace


@dataclass(frozen=True)
class _Held:
    reference: weakref.ref[LoadedModel]
    weights: weakref.WeakValueDictionary[str, nn.Parameter]
    """All of them; the model itself may lack some for the time of a pass."""
    fingerprints: Mapping[str, str]
    tokenizer: str


class Pool:
    """Of one process. Several threads may add at once; a model that nobody else holds is gone."""

    def __init__(self) -> None:
        self._held: list[_Held] = []
        self._lock = threading.Lock()

    def add(self, predictor: LoadedModel) -> None:
        """Have `predictor`, which nobody uses yet, use the weights and the tokenizer of others
        where they are equal, and find out its lineage, by which it can share passes with them."""
        held = _Held(
            weakref.ref(predictor),
            weakref.WeakValueDictionary(predictor.model.named_parameters()),
            fingerprints(predictor.model),
            _tokenizer_digest(predictor),
        )
        with predictor.autocast():
            predictor.lineage = trace(predictor.model, held.fingerprints, predictor.example())
        with self._lock:
            shared: set[str] = set()
            for other in self._held:
                if (theirs := other.reference()) is not None:
                    shared |= _share_weights(held, other)
                    if other.tokenizer == held.tokenizer:
                        predictor.tokenizer = theirs.tokenizer
                        predictor.tokenizing = theirs.tokenizing
            _leave_file(predictor, shared)
            self._held = [other for other in self._held if other.reference() is not None]
            self._held.append(held)


def _share_weights(mine: _Held, theirs: _Held) -> set[str]:
    """The names of the weights that lie where those of `theirs` do from now on."""
    shared = set()
    for name, parameter in theirs.weights.items():
        if mine.fingerprints.get(name) == theirs.fingerprints[name]:
            mine.weights[name].data = parameter.data
            shared.add(name)
    return shared


def _leave_file(predictor: LoadedModel, shared: set[str]) -> None:
    """What was loaded lies in the file as a whole, mapped into memory: where some of it is no
    longer needed, the rest moves out, and the file goes."""
    for name, parameter in predictor.model.named_parameters():
        if shared and name not in shared:
            parameter.data = parameter.detach().clone()


def _tokenizer_digest(predictor: LoadedModel) -> str:
    """Depends on how text becomes token ids; how far it is cut is said with each text."""
    tokenizer = predictor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python: nothing says when two of them are the same
        return f"{id(tokenizer)}"
    content = json.loads(backend.to_str())
    kept = {key: part for key, part in content.items() if key not in ("truncation", "padding")}
    told = [kept, type(tokenizer).__name__, tokenizer.special_tokens_map]
    return digest.of_chunks([json.dumps(told, sort_keys=True, default=str).encode()])
