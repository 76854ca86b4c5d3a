"""Finds the files of the pretrained base model, and loads model and tokenizer from them."""

from __future__ import annotations

import fnmatch
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftray import digest
from ftray.errors import ModelError
from ftray.models.border import KEY, check_weights, read_config, translated
from ftray.models.new_base import filled, is_new, made_for, models_cache, shape_of
from ftray.near import did_you_mean, looks_local, nearest_path
from ftray.spec.schema import ModelSpec
from ftray.store.files.location import Location, locate
from ftray.tasks import Task, TaskInfo
from ftray.tasks.schema import NO_SCHEMA, Schema

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]*(/[\w.-]*\w)?", re.ASCII)
_PROCESSOR_FILES = re.compile(
    r"tokenizer.*|vocab.*|merges\.txt|special_tokens_map\.json|added_tokens\.json|.*\.model|"
    r"chat_template.*|preprocessor_config\.json|processor_config\.json"
)
CONFIG = "config.json"
_DROPOUT = re.compile(r"dropout|pdrop")
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
_CARD = "README.md"
_ALL_FILES = (*_SMALL_FILES, "*.safetensors", _CARD)


@dataclass(frozen=True)
class Pretrained:
    """A folder on this machine with a pretrained model in it."""

    spec: ModelSpec
    folder: Path
    is_whole: bool = True
    """Whether the weights are in the folder, too."""

    @property
    def is_of_hub(self) -> bool:
        """Whether the spec names the model by its Hub id."""
        return not is_new(self.spec.name_or_path) and _location(self.spec) is None

    @property
    def commit(self) -> str | None:
        """The Hub commit of the files; None for a folder of the user."""
        in_cache = self.is_of_hub and self.folder.parent.name == "snapshots"
        return self.folder.name if in_cache else None

    def digest(self) -> str:
        """Return a digest of the weights' and the processor's files: all files of the folder but
        the model card."""
        return digest.of_json([self.weights_digest(), self.processor_digest()])

    def processor_digest(self) -> str:
        """Return a digest of the files that decide how rows become model inputs, and of no
        others."""
        names = sorted(
            path.name for path in self.folder.iterdir() if _PROCESSOR_FILES.fullmatch(path.name)
        )
        return digest.of_chunks((self.folder / name).read_bytes() for name in names)

    def weights_digest(self) -> str:
        """Return a digest of the files that decide what the model computes: all but the processor's
        files and the model card."""
        files = sorted(f for f in self.folder.iterdir() if f.is_file() and f.name != _CARD)
        kept = [f for f in files if not _PROCESSOR_FILES.fullmatch(f.name)]
        return digest.of_chunks(chunk for file in kept for chunk in _chunks(file))

    def processor(self, info: TaskInfo) -> Any:
        return load_processor(self.folder, info, self.spec.trust_remote_code)

    def model(
        self,
        task: Task,
        schema: Schema,
        seed: int,
        dropout: float | None = None,
        as_stored: bool = False,
    ) -> PreTrainedModel:
        """Load the model in fp32, with a new head drawn from `seed`. `dropout`, where given,
        replaces every dropout probability in its config. as_stored: keep the dtype of the weights'
        file, which is then memory-mapped; the new head is in fp32. Raises ModelError."""
        import torch

        dropouts = {} if dropout is None else dict.fromkeys(self.dropouts(dropout), dropout)
        self.check_weights()
        torch.manual_seed(seed)
        with self._read(f"cannot be loaded for {task.info.name}"):
            model, found = task.load_model(
                str(self.folder),
                schema,
                dtype="auto" if as_stored else torch.float32,
                trust_remote_code=self.spec.trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
                **dropouts,
            )
        if as_stored:
            torch.manual_seed(seed)
            _draw(model, {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
        return model

    def empty_model(self, task: Task, schema: Schema) -> PreTrainedModel:
        """Make the model in fp32 from its config; reads no weights. Raises ModelError."""
        import torch

        with self._read(f"cannot be loaded for {task.info.name}"):
            return task.empty_model(
                str(self.folder),
                schema,
                dtype=torch.float32,
                trust_remote_code=self.spec.trust_remote_code,
            )

    def check_weights(self) -> None:
        """Raise ModelError where the folder has no weights that can be read."""
        check_weights(self.spec.name_or_path, self.folder)

    def _read(self, problem: str) -> AbstractContextManager[None]:
        fix = "name a transformers model folder or Hub id that fits the task"
        return translated(self.spec.name_or_path, problem, fix)

    def dropouts(self, wanted: float) -> list[str]:
        """Return the names of the dropout probabilities that the model's config sets. Raises
        ModelError when there is none."""
        from transformers import AutoConfig

        with self._read("its config cannot be loaded"):
            config = AutoConfig.from_pretrained(
                str(self.folder),
                trust_remote_code=self.spec.trust_remote_code,
                local_files_only=True,
            )
        names = [name for name, value in config.to_dict().items() if _is_dropout(name, value)]
        if not names:
            raise ModelError.of(
                "train.dropout",
                wanted,
                f"the config of {self.spec.name_or_path} names no dropout",
                "leave train.dropout out, or raise train.label_smoothing",
            )
        return names


def _draw(model: PreTrainedModel, names: Collection[str]) -> None:
    """Draw new values in fp32 for the parameters `names`, which the weights' file lacks."""
    import torch

    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(prefix=prefix, recurse=False))
        new = [parameter for name, parameter in own.items() if name in names]
        for parameter in new:
            parameter.data = torch.empty_like(parameter, dtype=torch.float32)
            parameter._is_hf_initialized = False  # type: ignore[attr-defined]  # noqa: SLF001
        if new:
            model._init_weights(module)  # noqa: SLF001


def find_pretrained(spec: ModelSpec, schema: Schema = NO_SCHEMA) -> Pretrained:
    """Return the model's files on this machine; fetch them first where they are elsewhere, or make
    them for the columns in `schema`.

    Raises ModelError when there is no such model, or its folder is not a model folder.
    """
    if is_new(spec.name_or_path):
        return Pretrained(spec, made_for(spec.name_or_path, schema))
    return Pretrained(spec, _fetch(spec))


@contextmanager
def described(spec: ModelSpec, schema: Schema = NO_SCHEMA) -> Iterator[Pretrained]:
    """Yield the model for reading its config and tokenizer: the weights of a remote model are not
    fetched.

    Raises ModelError when there is no such model, or its folder is not a model folder.
    """
    if is_new(spec.name_or_path):
        yield find_pretrained(spec, schema)
        return
    location = _location(spec)
    if location is None:
        yield Pretrained(spec, _download(spec, _SMALL_FILES), is_whole=False)
        return
    _read_config(spec, location)
    if location.is_local:
        yield Pretrained(spec, Path(location.path))
        return
    with tempfile.TemporaryDirectory(prefix="ftray-config-") as name:
        for file in location.children():
            if any(fnmatch.fnmatch(file.name, each) for each in (*_SMALL_FILES, "*.py")):
                (Path(name) / file.name).write_bytes(file.read_bytes())
        yield Pretrained(spec, Path(name), is_whole=False)


def most_tokens(spec: ModelSpec) -> int | None:
    """Return the number of positions in the model's config; None where the config does not say, for
    a Hub id, and for a new model that has as many as it needs. Raises ModelError when the folder is
    not a model folder."""
    if is_new(spec.name_or_path):
        return shape_of(spec.name_or_path).most_tokens
    location = _location(spec)
    if location is None:
        return None
    config = _read_config(spec, location)
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    return limit if isinstance(limit, int) and limit > 0 else None


def check_pretrained(spec: ModelSpec, max_length: int) -> None:
    """Check the model as far as possible without loading or downloading it. Raises ModelError."""
    limit = most_tokens(spec)
    if limit is not None and limit < max_length:
        raise ModelError.of(
            "data.max_length",
            max_length,
            f"{spec.name_or_path} takes at most {limit} tokens",
            f"set data.max_length to {limit} or less",
        )


def load_processor(folder: Path, info: TaskInfo, trust_remote_code: bool = False) -> Any:
    """Load the folder's part that turns rows into model inputs. Raises ModelError."""
    if info.processor == "tokenizer":
        return load_tokenizer(folder, trust_remote_code)
    from transformers import AutoImageProcessor

    fix = "add preprocessor_config.json"
    with translated(str(folder), "its image processor cannot be loaded", fix):
        return AutoImageProcessor.from_pretrained(
            str(folder),
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            # Of the two backends for most processors this one is always there, and both round
            # otherwise.
            backend="pil",
        )


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the folder's tokenizer, with padding on the right. Raises ModelError."""
    from transformers import AutoConfig, AutoTokenizer

    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    # Load the config first: the tokenizer reads it, too, and an error would blame the tokenizer.
    if (folder / CONFIG).is_file():
        with translated(str(folder), f"its {CONFIG} cannot be used", "mend the file"):
            AutoConfig.from_pretrained(str(folder), **options)
    with translated(str(folder), "its tokenizer cannot be loaded", "add the tokenizer files"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    _require_words(folder, tokenizer)
    return tokenizer


def _require_words(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError for a tokenizer without text tokens. transformers makes such a tokenizer
    where the files are missing; it gives every word the same id."""
    if len(tokenizer) - len(set(tokenizer.all_special_ids)) < 2:
        raise ModelError.of(
            KEY,
            str(folder),
            "its tokenizer files are missing: every word would get the same id",
            "copy tokenizer.json, or the vocabulary that the model was trained with, into it",
        )


def _chunks(file: Path) -> Iterator[bytes]:
    yield file.name.encode()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            yield chunk


def _is_dropout(name: str, value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and _DROPOUT.search(name) is not None


def _location(spec: ModelSpec) -> Location | None:
    """Return the location of the model folder; None for a Hub id."""
    name = spec.name_or_path
    location = locate(name)
    if "://" in name or location.exists():
        return location
    return None if is_hub_id(name) else location


def is_hub_id(name: str) -> bool:
    """Return whether `name`, which is no folder here, can be a Hub id."""
    return _HUB_ID.fullmatch(name) is not None and not looks_local(name)


def _read_config(spec: ModelSpec, location: Location) -> dict[str, Any]:
    name = spec.name_or_path
    if not location.is_dir():
        advice = "name a model folder or a Hub id OWNER/NAME"
        close = None if "://" in name else nearest_path(name)
        raise ModelError.of(KEY, name, "no such folder", did_you_mean(close, advice))
    config = location / CONFIG
    if not config.is_file():
        raise ModelError.of(
            KEY,
            name,
            f"not a model folder: it has no {CONFIG}",
            "name a folder that save_pretrained wrote",
        )
    return read_config(name, config.read_bytes())


def _fetch(spec: ModelSpec) -> Path:
    location = _location(spec)
    if location is None:
        return _download(spec, _ALL_FILES)
    _read_config(spec, location)
    if location.is_local:
        return Path(location.path)
    # Copy the folder once for each machine and keep the copy, as the Hub's cache does.
    return filled(models_cache() / digest.of_json(location.url), location.patient().download)


def _download(spec: ModelSpec, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    code = ["*.py"] if spec.trust_remote_code else []
    try:
        folder = snapshot_download(
            spec.name_or_path, revision=spec.revision, allow_patterns=[*patterns, *code]
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        close = nearest_path(spec.name_or_path)
        raise ModelError.of(
            KEY,
            spec.name_or_path,
            f"not a folder here, and not to be had from the Hub: {str(error).splitlines()[0]}",
            did_you_mean(close, "check the name, HF_TOKEN and the network, or name a local folder"),
        ) from None
    return Path(folder)
