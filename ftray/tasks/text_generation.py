"""Text generation by a causal language model: continues a prompt, or answers a chat.

The prompt of a row is a text. A text that is a JSON list of {"role", "content"} is a chat: the
model's own chat template renders the prompt from it. The target of an example is the index of the
first token to learn; the tokens before it are the prompt, which has no loss.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftray.errors import ModelError
from ftray.tasks.base import BadRow, Examples, Inputs, Metrics, Row, is_missing
from ftray.tasks.blank import frame, has_tokens, is_blank
from ftray.tasks.info import Starter, TaskInfo
from ftray.tasks.padding import padded
from ftray.tasks.tokens import Spend, free

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Turn = dict[str, str]
"""A chat turn: role and content."""
_BEHIND = 4
"""Number of last tokens of an answer among which the end token is looked for: a chat template may
put more tokens after the end token."""


class TextGeneration:
    """The task text-generation. Rows are a prompt and its completion, the turns of a chat, or plain
    texts."""

    info = TaskInfo(
        name="text-generation",
        forms=(("prompt", "completion"), ("messages",), ("text",)),
        answer="completion",
        output="text",
        metrics={"accuracy": "max", "loss": "min"},
        default_metric="loss",
        max_length=1024,
        synonyms={
            "prompt": "instruction question",
            "completion": "response answer output_column",
            "messages": "chat conversation conversations turns",
        },
        lacks={
            "train.balance": (None, "is for labels", "Leave it out."),
            "train.token_dropout": (0.0, "drops tokens to be learnt", "Set 0."),
            "serve.backend": ("torch", "computes labels", "Set torch."),
        },
        starter=Starter(
            name="my-writer",
            model="name_or_path: Qwen/Qwen3-0.6B",
            data="""\
  train: examples.jsonl        # JSONL, CSV, Parquet, Arrow, or a Hub id
  validation: 0.1              # a share of train, or a file of its own
  test: 0.1
  # What a row has: a prompt and its completion; or {messages: messages}, a chat of which the last
  # turn is learnt; or {text: text}, which is learnt whole.
  columns: {prompt: prompt, completion: completion}
  max_length: 512              # tokens a row is cut to""",
            train="""\
  learning_rate: 2.0e-5
  unfreeze: 4                  # top blocks to train; all = everything
  metric: loss                 # of the completions' tokens; or accuracy""",
            space="""\
    train.learning_rate: {loguniform: [5.0e-6, 5.0e-4]}
    train.unfreeze: {choice: [1, 2, 4, 8]}""",
            serve="""\
  batch: {max_size: 32}        # answers that are written together
  max_tokens: 512              # of one answer""",
        ),
    )
    columns = ("prompt", "completion")

    def clean(self, values: Mapping[str, Any]) -> Row:
        if "messages" in values:
            *asked, last = _turns(values["messages"])
            if last["role"] != "assistant":
                raise BadRow("no_answer", f"the last turn is of {last['role']}")
            if _is_silent(asked):
                raise BadRow("empty_prompt")
            return {"prompt": json.dumps(asked), "completion": _filled(last["content"])}
        if "text" in values:
            return {"prompt": "", "completion": _filled(values["text"])}
        return {"prompt": self.question(values), "completion": _completion(values["completion"])}

    def question(self, values: Mapping[str, Any]) -> str:
        if "messages" in values:
            turns = _turns(values["messages"])
            asked = turns[:-1] if turns[-1]["role"] == "assistant" else turns
            if _is_silent(asked):
                raise BadRow("empty_prompt")
            return json.dumps(asked)
        prompt = values.get("prompt", values.get("text"))
        if isinstance(prompt, (list, np.ndarray)):
            prompt = json.dumps(_turns(prompt))
        if is_missing(prompt):
            raise BadRow("empty_prompt")
        if not isinstance(prompt, str):
            raise BadRow("prompt_not_a_string", repr(prompt))
        if self.is_blank(prompt):
            raise BadRow("empty_prompt", ascii(prompt[:20]) if prompt else "")
        return prompt

    def is_blank(self, question: str) -> bool:
        turns = _as_chat(question)
        return is_blank(question) if turns is None else _is_silent(turns)

    def identity(self, row: Row) -> str:
        """Return a key of prompt and completion: rows of equal prompts and different completions
        are no duplicates."""
        return "\0".join(" ".join(row[name].split()).casefold() for name in self.columns)

    def target(self, row: Row) -> str:
        return ""

    def load_model(self, path: str, labels: Sequence[str], **options: Any) -> PreTrainedModel:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(path, **options)

    def empty_model(self, path: str, labels: Sequence[str], **options: Any) -> PreTrainedModel:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(path, **options)
        return AutoModelForCausalLM.from_config(config, **options)

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[str],
        max_length: int,
        spend: Spend = free,
    ) -> list[list[int]]:
        """Return the token ids of each prompt; of a prompt that is too long, the last ones. Raises
        ModelError for a chat where the model has no chat template, or the template refuses it."""
        spend(sum(map(len, questions)))
        return [ids[-max_length:] for ids in prompt_ids(tokenizer, questions)]

    def lengths(self, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> list[int]:
        return [len(ids) for ids in prompt_ids(tokenizer, questions)]

    def examples(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Sequence[str]],
        labels: Sequence[str],
        max_length: int,
    ) -> Examples:
        """Make examples. A text without a prompt is split into windows, which learn all of it. Of
        any other row that is too long, the beginning of the prompt is cut first, then the end of
        the completion. Raises ModelError as `encode` does."""
        asked = prompt_ids(tokenizer, rows["prompt"])
        answers = _completion_ids(tokenizer, rows["prompt"], rows["completion"])
        around = frame(tokenizer)
        examples = Examples([], [], [], [], [])
        for place, (prompt, completion) in enumerate(zip(asked, answers, strict=True)):
            is_asked = not rows["prompt"][place] or has_tokens(prompt, around)
            if not is_asked or not has_tokens(completion, around):
                examples.empty.append(place)
                continue
            cut = _cut if rows["prompt"][place] else _windows
            for before, learnt in cut(prompt, completion, max_length):
                examples.ids.append([*before, *learnt])
                examples.targets.append(len(before))
                examples.rows.append(place)
            examples.lengths.append(len(prompt) + len(completion))
        return examples

    def collate(
        self, ids: Sequence[Sequence[int] | np.ndarray], pad_id: int
    ) -> dict[str, torch.Tensor]:
        return padded(ids, pad_id)

    def units(self, lengths: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Count the tokens to learn, one loss term each."""
        return (lengths - targets).astype(np.float64)

    def losses(
        self, logits: torch.Tensor, inputs: Inputs, targets: torch.Tensor, smoothing: float = 0.0
    ) -> torch.Tensor:
        """Return the sum of the losses of the tokens to learn in each row, from logits
        (B, T, V)."""
        import torch

        predicted, truth, rows = _learnt(logits, inputs, targets)
        each = torch.nn.functional.cross_entropy(
            predicted, truth, reduction="none", label_smoothing=smoothing
        )
        return each.new_zeros(len(targets)).index_add(0, rows, each)

    def probe_loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss with every token as a token to learn, which takes the most memory."""
        import torch

        predicted = logits[:, :-1].flatten(0, 1).float()
        truth = torch.zeros(len(predicted), dtype=torch.long, device=logits.device)
        return torch.nn.functional.cross_entropy(predicted, truth, reduction="sum")

    def empty_metric_state(self, labels: Sequence[str]) -> np.ndarray:
        return np.zeros(3)

    def metric_state(
        self, logits: torch.Tensor, inputs: Inputs, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return (3,): the number of tokens to learn, the number of them that the model finds
        likeliest, and the sum of their losses."""
        import torch

        predicted, truth, _ = _learnt(logits.detach(), inputs, targets)
        loss = torch.nn.functional.cross_entropy(predicted, truth, reduction="none")
        right = predicted.argmax(-1) == truth
        sums = [torch.ones_like(right), right, loss]
        return torch.stack([values.double().sum() for values in sums])

    def metrics(self, metric_state: np.ndarray, labels: Sequence[str]) -> Metrics:
        """Return loss: mean cross-entropy in nats over all tokens of all completions, each given
        the tokens before it; perplexity: e to the power of the loss; accuracy: the share of these
        tokens that the model finds likeliest; tokens: the number of these tokens."""
        tokens, right, total = (float(part) for part in metric_state)
        assert tokens > 0, "metrics of no rows"
        loss = total / tokens
        perplexity = math.exp(loss) if loss < math.log(1e300) else math.inf
        return {
            "loss": loss,
            "perplexity": perplexity,
            "accuracy": right / tokens,
            "tokens": int(tokens),
        }


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each prompt or chat, at least one token each. Raises ModelError."""
    chats = {place: turns for place, text in enumerate(prompts) if (turns := _as_chat(text))}
    plain = [place for place in range(len(prompts)) if place not in chats]
    rendered = [chat_text(tokenizer, turns) for turns in chats.values()]
    found = dict(zip(chats, _plain_ids(tokenizer, rendered), strict=True))
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


def chat_text(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]]) -> str:
    """Render a chat with the model's template, up to the start of the answer. Raises ModelError."""
    return _rendered(tokenizer, turns, asks=True)


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


def _rendered(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]], asks: bool
) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ModelError.of(
            "model.name_or_path",
            tokenizer.name_or_path,
            "has no chat template, and a chat is asked",
            "name a chat model, or use prompts and completions",
        )
    try:
        chat = [dict(turn) for turn in turns]
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


def _cut(
    prompt: list[int], completion: list[int], max_length: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the prompt tokens and the tokens to learn, cut to at most `max_length` tokens."""
    learnt = completion[: max(1, max_length - 1)]
    yield prompt[-max(1, max_length - len(learnt)) :], learnt


def _windows(
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


def _completion_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], completions: Sequence[str]
) -> list[list[int]]:
    """Return the token ids of completions as the model is to write them: with the text that its
    chat template puts after an answer, or with an end token."""
    end = end_id(tokenizer)
    pairs = zip(prompts, completions, strict=True)
    written = [_as_written(tokenizer, prompt, completion) for prompt, completion in pairs]
    ids = _plain_ids(tokenizer, written)
    return [row if end in row[-_BEHIND:] else [*row, end] for row in ids]


def _as_written(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> str:
    """Return the completion; for a chat, with the text that the chat template puts after it."""
    if turns := _as_chat(prompt):
        asked = chat_text(tokenizer, turns)
        whole = _rendered(tokenizer, [*turns, {"role": "assistant", "content": completion}], False)
        told = whole[len(asked) :] if whole.startswith(asked) else ""
        # Otherwise the template also puts the role before the answer, and the model would learn to
        # write the role.
        if told.lstrip().startswith(completion.strip()):
            return told
    return completion


def _plain_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    return ids


def _learnt(
    logits: torch.Tensor, inputs: Inputs, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, for the N tokens to learn, the logits that predict them, (N, V) float32, their ids
    and their row indices, (N,) each. Only these logits are cast to float32: with a large
    vocabulary, float32 logits of all tokens would be the largest tensor of the step."""
    import torch

    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    places = torch.arange(1, ids.shape[1], device=ids.device)
    learnt = (places >= targets.to(ids.device)[:, None]) & mask[:, 1:].bool()
    # Where the inputs are still on the host, `nonzero` runs there and waits for no device.
    rows, before = learnt.nonzero(as_tuple=True)
    truth = ids[rows, before + 1]
    rows, before, truth = (t.to(logits.device, non_blocking=True) for t in (rows, before, truth))
    return logits[rows, before].float(), truth, rows


def _as_chat(text: str) -> list[Turn] | None:
    """Return the turns of a prompt that is a chat in JSON; None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        return _turns(text)
    except BadRow:
        return None


def _turns(value: Any) -> list[Turn]:
    """Return the turns of a chat, given as a list or as JSON. Raises BadRow."""
    if is_missing(value):
        raise BadRow("empty_messages")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRow("messages_not_json", str(error)) from None
    if not isinstance(value, (list, np.ndarray)):
        raise BadRow("messages_not_a_list", repr(value)[:80])
    if not len(value):
        raise BadRow("empty_messages")
    return [_turn(turn) for turn in value]


def _is_silent(turns: Sequence[Turn]) -> bool:
    """Return whether all turns of a chat are blank."""
    return all(is_blank(turn["content"]) for turn in turns)


def _turn(value: Any) -> Turn:
    if not isinstance(value, Mapping):
        raise BadRow("message_not_an_object", repr(value)[:80])
    told = {key: part for key, part in value.items() if not is_missing(part)}
    for key in ("role", "content"):
        if not isinstance(told.get(key), str):
            raise BadRow("message_without_text", f"{key}: {told.get(key)!r}"[:80])
    if more := sorted(told.keys() - {"role", "content", "name"}):
        raise BadRow("message_not_plain", f"{more[0]} cannot be learnt from")
    return {"role": _encodable(told["role"]), "content": _encodable(told["content"])}


def _completion(value: Any) -> str:
    if isinstance(value, (list, np.ndarray)):
        turns = _turns(value)
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            raise BadRow("no_answer", "one turn of the assistant is wanted")
        value = turns[0]["content"]
    return _filled(value)


def _filled(value: Any) -> str:
    if is_missing(value):
        raise BadRow("empty_completion")
    if not isinstance(value, str):
        raise BadRow("completion_not_a_string", repr(value)[:80])
    if is_blank(value):
        raise BadRow("empty_completion")
    return _encodable(value)


def _encodable(text: str) -> str:
    """Return `text`. Raises BadRow where it has a lone surrogate (half a character), which JSON can
    escape."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow("bad_encoding", str(error)) from None
    return text
