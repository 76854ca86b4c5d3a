"""Finds the earlier answers of a chat, as the model's chat template renders them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import commonprefix
from typing import TYPE_CHECKING

from ftray.tasks.text.chat import ASSISTANT, Turn, as_chat
from ftray.tasks.text.language_model.learnt import Span
from ftray.tasks.text.prompts import chat_text, plain_ids, prompt_ids, rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\ue0f1MARK\ue0f1"
"""Stands for the content of one turn: a text that no template changes."""


def answered_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> list[tuple[list[int], list[Span]]]:
    """Return the token ids of each prompt, and the spans of the answers to learn in it, each with
    what the chat template puts after an answer. A token is either of an answer or not, as in a
    prompt to which the model writes the answer. Raises ModelError."""
    chats = [as_chat(prompt) or [] for prompt in prompts]
    found: list[tuple[list[int], list[Span]]] = []
    for prompt, turns in zip(prompts, chats, strict=True):
        if not any(turn["role"] == ASSISTANT for turn in turns):
            found.append((prompt_ids(tokenizer, [prompt])[0], []))
            continue
        ids: list[int] = []
        spans: list[Span] = []
        pieces = list(_pieces(tokenizer, turns))
        parts = plain_ids(tokenizer, [text for text, _ in pieces])
        for (_, is_answer), part in zip(pieces, parts, strict=True):
            if is_answer:
                spans.append((len(ids), len(ids) + len(part)))
            ids += part
        found.append((ids, spans))
    return found


def _pieces(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]
) -> Iterator[tuple[str, bool]]:
    """Yield the rendered prompt in pieces, and whether each is an answer to learn. An answer that
    the template changes by more than white space around it, or leaves out, is part of other
    pieces."""
    text = chat_text(tokenizer, turns)
    answer: Turn = {"role": ASSISTANT, "content": _MARK}
    ending = rendered(tokenizer, [*turns, answer], asks=False).partition(_MARK)[2]
    done = 0
    for number, turn in enumerate(turns):
        if turn["role"] != ASSISTANT or "weight" in turn:
            continue
        marked = chat_text(tokenizer, [*turns[:number], answer, *turns[number + 1 :]])
        before, mark, after = marked.partition(_MARK)
        start, end = len(before), len(text) - len(after)
        content = text[start:end].strip()
        if not mark or not content or content not in turn["content"] or start < done:
            continue
        end += len(commonprefix([after, ending]))
        yield text[done:start], False
        yield text[start:end], True
        done = end
    yield text[done:], False
