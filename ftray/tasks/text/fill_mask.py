"""Masked language modelling: the model finds tokens that are hidden, and so learns the language of
a domain from plain texts.

Training hides other tokens each time (Liu et al. 2019), a pure function of the place in the run.
Evaluation always hides the same tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ftray.tasks.base import (
    Answered,
    Augment,
    Metrics,
    Outputs,
    Question,
    Row,
    Spend,
    TaskSetup,
    free,
)
from ftray.tasks.features import Batch, Example, Examples, Feature
from ftray.tasks.info import ONE_LABEL_ONLY, Starter, TaskInfo
from ftray.tasks.metrics import Gathered, MetricState
from ftray.tasks.schema import Schema
from ftray.tasks.text.language_model.masking import fixed_draw, hidden, mask_of, maskable
from ftray.tasks.text.language_model.token_loss import (
    NO_TOKEN,
    PADDING,
    no_tokens,
    summed_losses,
    token_metrics,
    token_state,
)
from ftray.tasks.text.texts import IDS, Texts, padded, plain_example
from ftray.tasks.text.windows import OFFSETS, examples_of, windows

if TYPE_CHECKING:
    import torch

HIDDEN, TRUTH = "hidden", "truth"
"""Features: places of the hidden tokens; all tokens as they were."""
COUNT = "count"
"""Feature on the host: the number of hidden tokens."""
_BEST = 5
"""Answers for each hidden token, as the Hugging Face pipeline gives."""


class Options(BaseModel):
    """Options of the spec's section `task_options`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    share: float = Field(0.15, gt=0, le=0.9, description="Share of tokens that are hidden.")
    dynamic: bool = Field(True, description="Whether other tokens are hidden in each epoch.")


class FillMask(Texts):
    """The task fill-mask. M is the hidden tokens of a window, V the vocabulary."""

    info = TaskInfo(
        name="fill-mask",
        forms=(("text",),),
        modalities={"text": "text"},
        answers=(),
        output="fills",
        metrics={"loss": "min", "accuracy": "max"},
        default_metric="loss",
        max_length=128,
        options=Options,
        outcome=("prediction", "scores"),
        ranks=True,
        call='"A text with a [MASK]."',
        synonyms={"text": "text_column content sentence document"},
        lacks={
            **ONE_LABEL_ONLY,
            "train.token_dropout": (0.0, "the task hides tokens itself", "Set 0."),
        },
        starter=Starter(
            name="my-language",
            model="name_or_path: FacebookAI/roberta-base",
            data="""\
  train: texts.jsonl           # JSONL, CSV, Parquet, Arrow, or a Hub id
  validation: 0.1              # a share of train, or a file of its own
  test: 0.1
  columns: {text: text}        # plain texts; long ones are learnt in windows
  max_length: 128              # tokens of a window""",
            train="""\
  learning_rate: 5.0e-5
  unfreeze: all                # or the number of top blocks to train
  metric: loss                 # of hidden tokens; or accuracy""",
            space="""\
    train.learning_rate: {loguniform: [1.0e-5, 5.0e-4]}
    train.unfreeze: {choice: [2, 4, all]}""",
            serve="  batch: {max_size: 16, wait_ms: 5}",
        ),
    )
    columns = {"text": "text"}
    auto_class = "AutoModelForMaskedLM"

    def parse(self, values: Mapping[str, Any]) -> Row:
        return self.asked(values)

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {
            **super().features(setup),
            HIDDEN: Feature("int32", None, counts=False),
            TRUTH: Feature("int32", None, "target"),
            COUNT: Feature("int64", (), "host"),
        }

    def encode(
        self, setup: TaskSetup, questions: Sequence[Question], spend: Spend = free
    ) -> list[list[Example]]:
        """Return the windows of each text. Hidden are its mask tokens; of a text without any, the
        tokens that evaluation hides."""
        spend(sum(map(self.size, questions)))
        return [
            [{n: v for n, v in each.items() if n not in (TRUTH, COUNT)} for each in made]
            for made in (_windows(setup, text) for text in questions)
        ]

    def lengths(self, setup: TaskSetup, questions: Sequence[Question]) -> list[int]:
        """Return 0: no part of a text is cut off."""
        return [0] * len(questions)

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make the windows of each row, which share no tokens. A row with a mask token is rejected:
        nothing tells which token it hides."""
        mask = setup.processor.convert_ids_to_tokens(mask_of(setup.processor))
        found = examples_of(_windows(setup, t) if mask not in t else () for t in rows["text"])
        hiding = {place: "has_mask_token" for place, t in enumerate(rows["text"]) if mask in t}
        return replace(found, rejected={**found.rejected, **hiding})

    def terms(self, column: Callable[[str], np.ndarray], lengths: np.ndarray) -> np.ndarray:
        """Count the hidden tokens, one loss term each."""
        return column(COUNT).astype(np.float64)

    def augmented_by(self, options: BaseModel, token_dropout: float) -> str | None:
        assert isinstance(options, Options)
        return "task_options.dynamic true" if options.dynamic else None

    def augmentation(self, setup: TaskSetup, token_dropout: float) -> Augment | None:
        options = _options(setup)

        def hide(example: Example, draw: np.random.Generator) -> Example:
            ids, places = hidden(np.asarray(example[TRUTH]), options.share, setup.processor, draw)
            return {**example, IDS: ids, HIDDEN: places}

        return hide if options.dynamic else None

    def collate(self, setup: TaskSetup, examples: Sequence[Example]) -> Batch:
        return padded(examples, self.features(setup), setup.processor, {HIDDEN: NO_TOKEN})

    def dummy(self, setup: TaskSetup, size: int) -> Example:
        return plain_example(setup.processor, size)

    def forward(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run the model. Returns the logits of the hidden tokens, (B, M, V); of all tokens, (B, T,
        V), where no places of hidden ones are among the inputs."""
        read = {name: value for name, value in inputs.items() if name != HIDDEN}
        logits = super().forward(model, read)["logits"]
        if HIDDEN not in inputs:
            return {"logits": logits}
        places = inputs[HIDDEN]
        at = places.clamp(min=0)[..., None].expand(-1, -1, logits.shape[-1])
        found = logits.gather(1, at).masked_fill((places == NO_TOKEN)[..., None], PADDING)
        return {"logits": found}

    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the sum of the losses of the hidden tokens of each row, from logits (B, M, V)."""
        return summed_losses(outputs["logits"], _truth(batch), smoothing)

    def empty_state(self, schema: Schema) -> MetricState:
        return no_tokens()

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        """Return the number of hidden tokens, the number of them that the model finds likeliest,
        and the sum of their losses."""
        truth = _truth(batch)
        real = truth != NO_TOKEN
        return token_state(outputs["logits"].detach()[real].float(), truth[real])

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        """Return loss, perplexity, accuracy and the number of tokens, over all hidden tokens."""
        return token_metrics(found)

    def numbers(self, outputs: Outputs, setup: TaskSetup) -> np.ndarray:
        """Return the probability of each token at each hidden place, (M * V,)."""
        found: np.ndarray = _shares(outputs).ravel().numpy()
        return found

    def answers(
        self,
        setup: TaskSetup,
        questions: Sequence[Question],
        answered: Sequence[Answered],
        top_k: int | None = None,
    ) -> list[Any]:
        """Return the likeliest tokens for the hidden one, {"score", "token", "token_str",
        "sequence"} each, five or `top_k` of them, best first; of several hidden ones, a list of
        these lists: as the Hugging Face pipeline. sequence: the text with the token in it."""
        found = [list(_filled(setup, parts, top_k or _BEST)) for parts in answered]
        return [each[0] if len(each) == 1 else each for each in found]

    def summary(self, answer: Any) -> str:
        if isinstance(answer, dict):
            return str(answer["token_str"])
        return " ".join(each["token_str"] for each in _first(answer))

    def outcome(self, answer: Any) -> dict[str, Any]:
        best = _first(answer)
        return {
            "prediction": [each["token_str"] for each in best],
            "scores": [each["score"] for each in best],
        }


def _options(setup: TaskSetup) -> Options:
    assert isinstance(setup.options, Options)
    return setup.options


def _windows(setup: TaskSetup, text: str) -> list[Example]:
    """Return the windows of a text, in each of which some tokens are hidden; of a text with mask
    tokens, those that have any."""
    tokenizer, found = setup.processor, list(windows(setup, (text,), 0))
    asked = [window for window in found if mask_of(tokenizer) in window[IDS]]
    whole = [window for window in found if len(maskable(window[IDS], tokenizer))]
    return [_hidden(setup, window, bool(asked)) for window in asked or whole]


def _hidden(setup: TaskSetup, window: Example, asked: bool) -> Example:
    ids = np.array(window[IDS], dtype=np.int32)
    shown, places = ids, np.flatnonzero(ids == mask_of(setup.processor))
    if not asked:
        shown, places = hidden(ids, _options(setup).share, setup.processor, fixed_draw(ids))
    rest = {name: value for name, value in window.items() if name != OFFSETS}
    return {**rest, IDS: shown, HIDDEN: places, TRUTH: ids, COUNT: len(places)}


def _truth(batch: Batch) -> torch.Tensor:
    """Return the tokens that are hidden, (B, M), `NO_TOKEN` in the padding."""
    places = batch.inputs[HIDDEN]
    found = batch.targets[TRUTH].gather(1, places.clamp(min=0))
    return found.masked_fill(places == NO_TOKEN, NO_TOKEN)


def _shares(outputs: Outputs) -> torch.Tensor:
    import torch

    logits = outputs["logits"].float()
    return torch.softmax(logits[logits[:, 0] > PADDING], -1)


def _filled(setup: TaskSetup, parts: Answered, most: int) -> Iterator[list[dict[str, Any]]]:
    """Yield the likeliest tokens for each hidden one."""
    decode = setup.processor.decode
    alone = sum(len(example[HIDDEN]) for example, _ in parts) == 1
    for example, outputs in parts:
        shares = _shares(outputs)
        found = shares.topk(min(most, shares.shape[-1]))
        for place, scores, tokens in zip(
            example[HIDDEN], *(v.tolist() for v in found), strict=True
        ):
            ids = np.array(example[IDS])
            ranked = []
            for score, token in zip(scores, tokens, strict=True):
                ids[place] = token
                text = decode(ids.tolist(), skip_special_tokens=alone)
                each = {"score": score, "token": token, "token_str": decode([token])}
                ranked.append({**each, "sequence": text})
            yield ranked


def _first(answer: Any) -> list[dict[str, Any]]:
    """Return the likeliest token for each hidden one."""
    several = answer if answer and isinstance(answer[0], list) else [answer]
    return [ranked[0] for ranked in several]
