"""Turns prompts, chats and completions into token ids of a causal language model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ftray.errors import ModelError
from ftray.tasks.text.chat import ASSISTANT, Turn, as_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BEHIND = 4
"""Number of last tokens of an answer among which the end token is looked for: a chat template may
put more tokens after the end token."""


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each prompt or chat, at least one token each. Raises ModelError."""
    chats = {place: turns for place, text in enumerate(prompts) if (turns := as_chat(text))}
    plain = [place for place in range(len(prompts)) if place not in chats]
    rendered = [chat_text(tokenizer, turns) for turns in chats.values()]
    found = dict(zip(chats, plain_ids(tokenizer, rendered), strict=True))
    texts = [prompts[place] for place in plain]
    found.update(zip(plain, _open_ids(tokenizer, texts), strict=True))
    return [found[place] for place in range(len(prompts))]


def _open_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts to continue, with the tokenizer's start token and without its
    end token."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    for row in ids:
        while row and row[-1] in ends:  # some tokenizers append an end token to every text
            row.pop()
    start = tokenizer.bos_token_id
    return [row or [end_id(tokenizer) if start is None else start] for row in ids]


def chat_text(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> str:
    """Render a chat with the model's template, up to the start of the answer. Raises ModelError."""
    return rendered(tokenizer, turns, asks=True)


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends a text. Raises ModelError where the tokenizer has none."""
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token is not None:
            return token
    raise ModelError.of(
        "model.name_or_path",
        tokenizer.name_or_path,
        "its tokenizer has no token that ends a text",
        "name a model for text generation",
    )


def rendered(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], asks: bool) -> str:
    """Render a chat with the model's template. asks: up to the start of an answer. Raises
    ModelError."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ModelError.of(
            "model.name_or_path",
            tokenizer.name_or_path,
            "has no chat template, and a chat is asked",
            "name a chat model, or use prompts and completions",
        )
    try:
        chat = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=asks)
    except TemplateError as error:
        raise ModelError.of(
            "messages",
            json.dumps(list(turns))[:80],
            f"the model's chat template refuses them: {error}",
            "send the roles in the order that the model was made for",
        ) from None
    assert isinstance(text, str)
    return text


def cut_to(
    prompt: list[int], completion: list[int], max_length: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the prompt tokens and the tokens to learn, cut to at most `max_length` tokens."""
    before, (learnt,) = cut_alike(prompt, [completion], max_length)
    yield before, learnt


def cut_alike(
    prompt: list[int], answers: Sequence[list[int]], max_length: int
) -> tuple[list[int], list[list[int]]]:
    """Return the prompt and its answers, cut so that the prompt has at most `max_length` tokens
    together with any answer: first the beginning of the prompt, then the end of the answers."""
    cut = [answer[: max(1, max_length - 1)] for answer in answers]
    return prompt[-max(1, max_length - max(map(len, cut))) :], cut


def windows_of(
    prompt: list[int], text: list[int], max_length: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield windows of the text, of at most `max_length` tokens each. A window begins with the last
    token of the previous window as its prompt, so that every token is learnt once."""
    size = max(1, max_length - 1)
    before = prompt[-1:]
    for start in range(0, len(text), size):
        learnt = text[start : start + size]
        yield before, learnt
        before = learnt[-1:]


def completion_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], completions: Sequence[str]
) -> list[list[int]]:
    """Return the token ids of completions as the model is to write them: with the text that its
    chat template puts after an answer, or with an end token."""
    end = end_id(tokenizer)
    pairs = zip(prompts, completions, strict=True)
    written = [_as_written(tokenizer, prompt, completion) for prompt, completion in pairs]
    ids = plain_ids(tokenizer, written)
    return [row if end in row[-_BEHIND:] else [*row, end] for row in ids]


def _as_written(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> str:
    """Return the completion; for a chat, with the text that the chat template puts after it."""
    if turns := as_chat(prompt):
        asked = chat_text(tokenizer, turns)
        answer: Turn = {"role": ASSISTANT, "content": completion}
        whole = rendered(tokenizer, [*turns, answer], False)
        told = whole[len(asked) :] if whole.startswith(asked) else ""
        # Otherwise the template also puts the role before the answer, and the model would learn to
        # write the role.
        if told.lstrip().startswith(completion.strip()):
            return told
    return completion


def plain_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts, without special tokens around them."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    return ids
