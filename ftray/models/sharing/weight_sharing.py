"""Shares equal weights and equal tokenizers among the models of a process, so that each lies in
memory once."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from ftray import digest
from ftray.models.inference.loaded import LoadedModel
from ftray.models.sharing.prefix_hash import fingerprints, trace


@dataclass(frozen=True)
class _Held:
    reference: weakref.ref[LoadedModel]
    weights: weakref.WeakValueDictionary[str, nn.Parameter]
    """All weights of the model. `cut_for_now` may take blocks out of the model for the time of a
    pass, so the model itself may lack some."""
    fingerprints: Mapping[str, str]
    processor: str


class Pool:
    """The models of one process. Several threads may add models at once. The pool holds weak
    references, so it keeps no model alive."""

    def __init__(self) -> None:
        self._held: list[_Held] = []
        self._lock = threading.Lock()

    def add(self, predictor: LoadedModel) -> None:
        """Replace the weights and the tokenizer of `predictor`, which nobody uses yet, by equal
        ones of other models, and set its lineage, by which it can share passes with them."""
        held = _Held(
            weakref.ref(predictor),
            weakref.WeakValueDictionary(predictor.model.named_parameters()),
            fingerprints(predictor.model),
            _processor_digest(predictor),
        )
        with predictor.autocast():
            predictor.lineage = trace(predictor.model, held.fingerprints, predictor.dummies(3, 8))
        with self._lock:
            shared: set[str] = set()
            for other in self._held:
                if (theirs := other.reference()) is not None:
                    shared |= _share_weights(held, other)
                    if other.processor == held.processor:
                        processor = theirs.setup.processor
                        predictor.setup = replace(predictor.setup, processor=processor)
                        predictor.tokenizing = theirs.tokenizing
            _leave_file(predictor, shared)
            self._held = [other for other in self._held if other.reference() is not None]
            self._held.append(held)


def _share_weights(mine: _Held, theirs: _Held) -> set[str]:
    """Make equal weights of `mine` share the memory of `theirs`; return their names."""
    shared = set()
    for name, parameter in theirs.weights.items():
        if mine.fingerprints.get(name) == theirs.fingerprints[name]:
            mine.weights[name].data = parameter.data
            shared.add(name)
    return shared


def _leave_file(predictor: LoadedModel, shared: set[str]) -> None:
    """Copy the weights that are not shared out of the memory-mapped file that they were loaded
    from, where others are shared: the mapping as a whole can then be freed."""
    for name, parameter in predictor.model.named_parameters():
        if shared and name not in shared:
            parameter.data = parameter.detach().clone()


def _processor_digest(predictor: LoadedModel) -> str:
    """Return a digest of how the tokenizer makes token ids of text. Truncation and padding do not
    count, since each call sets them."""
    tokenizer = predictor.setup.processor
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # no tokenizer, or one in Python: nothing tells that two are equal
        return f"{id(tokenizer)}"
    content = json.loads(backend.to_str())
    kept = {key: part for key, part in content.items() if key not in ("truncation", "padding")}
    told = [kept, type(tokenizer).__name__, tokenizer.special_tokens_map]
    return digest.of_chunks([json.dumps(told, sort_keys=True, default=str).encode()])
