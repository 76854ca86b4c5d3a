"""The input side of tasks that read one text a row, or two: cleaning, token ids, padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from ftray.tasks.base import (
    Augment,
    BadRow,
    BaseTask,
    Batch,
    Example,
    Examples,
    Feature,
    Question,
    Row,
    Spend,
    TaskSetup,
    chosen,
    free,
    is_missing,
)
from ftray.tasks.features import mask_of, stacked
from ftray.tasks.info import Modality
from ftray.tasks.text.blank import frame, has_tokens, is_blank
from ftray.tasks.text.tokens import drop_tokens, first_tokens, tokenized

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
TOKEN_FEATURES = {IDS: Feature("int32", None), TYPES: Feature("int8", None, counts=False)}


def clean_text(value: Any, column: str = "text") -> str:
    """Return a text of a source row. Raises BadRow where it is missing, blank, or no text."""
    if isinstance(value, str):
        if is_blank(value):
            raise BadRow(f"empty_{column}", ascii(value[:20]) if value else "")
        return value
    if is_missing(value):
        raise BadRow(f"empty_{column}")
    raise BadRow(f"{column}_not_a_string", repr(value)[:80])


CLEANERS: Mapping[str, Callable[[Any], Any]] = {
    "text": clean_text,
    "text_pair": partial(clean_text, column="text_pair"),
}
"""Functions that clean the columns of rows with one text, or two."""


def padded(
    examples: Sequence[Example],
    features: Mapping[str, Feature],
    tokenizer: PreTrainedTokenizerBase,
    pads: Mapping[str, int] | None = None,
) -> Batch:
    """Make a batch of examples with token ids, padded on the right, and their attention mask.
    pads: values of the padding of other features than the token ids, 0 where none is given."""
    batch = stacked(examples, features, {IDS: tokenizer.pad_token_id, **(pads or {})})
    batch.inputs[MASK] = mask_of(len(example[IDS]) for example in examples)
    return batch


def plain_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the lowest token id that is not special."""
    special = set(tokenizer.all_special_ids)
    return next(token for token in range(len(special) + 1) if token not in special)


def plain_example(tokenizer: PreTrainedTokenizerBase, size: int) -> Example:
    """Return an example of `size` tokens, with token types where the model reads them."""
    types = {TYPES: [0] * size} if TYPES in tokenizer.model_input_names else {}
    return {IDS: [plain_token(tokenizer)] * size, **types}


def random_text(tokenizer: PreTrainedTokenizerBase, size: int, draw: np.random.Generator) -> str:
    """Return a text of random tokens: several such texts use many rows of the embedding matrix."""
    special = set(tokenizer.all_special_ids)
    words = np.array(sorted(set(tokenizer.get_vocab().values()) - special))
    return str(tokenizer.decode(draw.choice(words, size).tolist()))


class Texts(BaseTask):
    """Rows of a text, or of two where the columns have a `text_pair`."""

    def ask(self, values: Mapping[str, Any]) -> Question:
        text = clean_text(values["text"])
        if "text_pair" not in values:
            return text
        return {"text": text, "text_pair": clean_text(values["text_pair"], "text_pair")}

    def asked(self, values: Mapping[str, Any]) -> Row:
        """Return the input columns of a clean row. Raises BadRow."""
        question = self.ask(values)
        return dict(question) if isinstance(question, dict) else {"text": question}

    def is_blank(self, question: Question) -> bool:
        texts = question.values() if isinstance(question, Mapping) else [question]
        return any(map(is_blank, texts))

    def key(self, row: Row) -> str:
        return chosen(row, ("text", "text_pair") if "text_pair" in row else ("text",))

    def size(self, question: Question) -> int:
        texts = question.values() if isinstance(question, Mapping) else [question]
        return sum(map(len, texts))

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return dict(TOKEN_FEATURES)

    def encode(
        self, setup: TaskSetup, questions: Sequence[Question], spend: Spend = free
    ) -> list[list[Example]]:
        """Return one example of each question, cut to `setup.max_length` tokens."""
        around = frame(setup.processor)
        return [
            [example] if has_tokens(example[IDS], around) else []
            for example in self._cut(setup, questions, spend)
        ]

    def _cut(
        self, setup: TaskSetup, questions: Sequence[Question], spend: Spend = free
    ) -> list[Example]:
        if not questions:
            return []
        if not isinstance(questions[0], Mapping):
            ids = first_tokens(setup.processor, questions, setup.max_length, spend)
            return [{IDS: row} for row in ids]
        spend(sum(len(text) for question in questions for text in question.values()))
        found = _pairs(setup.processor, questions, truncation=True, max_length=setup.max_length)
        return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]

    def lengths(self, setup: TaskSetup, questions: Sequence[Question]) -> list[int]:
        return [len(ids) for ids in self._whole(setup, questions)]

    def _whole(self, setup: TaskSetup, questions: Sequence[Question]) -> list[list[int]]:
        if not questions:
            return []
        if isinstance(questions[0], Mapping):
            return _pairs(setup.processor, questions, truncation=False)[IDS]
        ids: list[list[int]] = tokenized(setup.processor, questions, truncation=False)[IDS]
        return ids

    def read(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make one example for each clean row that gives tokens, without targets."""
        columns = [name for name in ("text", "text_pair") if name in rows]
        each = zip(*(rows[name] for name in columns), strict=True)
        questions = [self.question(dict(zip(columns, of, strict=True))) for of in each]
        return self.read_each(setup, questions)

    def read_each(self, setup: TaskSetup, questions: Sequence[Question]) -> Examples:
        """Make one example for each text, or pair of texts, that gives tokens, without targets."""
        are_pairs = bool(questions) and isinstance(questions[0], Mapping)
        ids, around = self._whole(setup, questions), frame(setup.processor)
        lengths = [len(row) for row in ids]
        kept = [place for place, row in enumerate(ids) if has_tokens(row, around)]
        # A row that is short enough is cut nowhere; a pair needs its token types, too.
        again = [p for p in kept if lengths[p] > setup.max_length or are_pairs]
        examples: dict[int, Example] = {place: {IDS: ids[place]} for place in kept}
        examples.update(zip(again, self._cut(setup, [questions[p] for p in again]), strict=True))
        found = [examples[place] for place in kept]
        names = tuple(found[0]) if found else (IDS,)
        return Examples(
            {name: [example[name] for example in found] for name in names},
            kept,
            [lengths[place] for place in kept],
            dict.fromkeys(sorted({*range(len(ids))}.difference(kept)), "no_tokens"),
        )

    def collate(self, setup: TaskSetup, examples: Sequence[Example]) -> Batch:
        return padded(examples, self.features(setup), setup.processor)

    def made_up(
        self, setup: TaskSetup, inputs: Mapping[str, Modality], size: int, draw: np.random.Generator
    ) -> Question:
        texts = {name: random_text(setup.processor, size, draw) for name in inputs}
        return texts if len(texts) > 1 else next(iter(texts.values()))

    def dummy(self, setup: TaskSetup, size: int) -> Example:
        return {IDS: [plain_token(setup.processor)] * size}

    def augmented_by(self, options: BaseModel, token_dropout: float) -> str | None:
        return f"train.token_dropout {token_dropout:g}" if token_dropout else None

    def augmentation(self, setup: TaskSetup, token_dropout: float) -> Augment | None:
        if not token_dropout:
            return None
        special = frozenset(setup.processor.all_special_ids)

        def drop(example: Example, draw: np.random.Generator) -> Example:
            stays = drop_tokens(np.asarray(example[IDS]), token_dropout, special, draw)
            return {
                n: np.asarray(v)[stays] if n in TOKEN_FEATURES else v for n, v in example.items()
            }

        return drop


def _pairs(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[Mapping[str, str]], **options: Any
) -> dict[str, list[list[int]]]:
    """Return the token ids of pairs of texts, and their token types where the model reads them."""
    found = tokenizer(
        [question["text"] for question in questions],
        [question["text_pair"] for question in questions],
        padding=False,
        return_attention_mask=False,
        verbose=False,
        **options,
    )
    return {name: found[name] for name in (IDS, TYPES) if name in found}
