"""What README.md and docs/ show is so: specs are valid, keys and commands are there, links lead
somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from click.exceptions import UsageError

from ftray.cli.main import app
from ftray.spec.load import parse
from ftray.spec.paths import paths
from ftray.spec.schema import Spec

ROOT = Path(__file__).parents[2]
PAGES = {page.name: page.read_text() for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
SPECS = [
    (name, block)
    for name, text in PAGES.items()
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
]
SECTIONS = "|".join(name for name, field in Spec.model_fields.items() if field.annotation)
KEYS = sorted(
    {key for text in PAGES.values() for key in re.findall(rf"`((?:{SECTIONS})\.[\w.]+)", text)}
)


def _commands() -> set[str]:
    """The lines that run `ftray`, in blocks of shell and between backticks."""
    found = set()
    for text in PAGES.values():
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`(ftray [^`]*)`", text)
        found |= {line.split(" #")[0].strip() for line in lines if line.startswith("ftray ")}
    return found


def test_there_is_something_to_look_at() -> None:
    assert len(SPECS) >= 6 and len(KEYS) >= 20 and len(_commands()) >= 25


@pytest.mark.parametrize(("page", "block"), SPECS)
def test_a_spec_is_valid(page: str, block: str) -> None:
    parse(yaml.safe_load(block))


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_there(key: str) -> None:
    free = key.startswith("tune.space.")
    assert free or key.rstrip(".") in set(paths(Spec))


@pytest.mark.parametrize("line", sorted(_commands()))
def test_a_command_is_there_with_its_options(line: str) -> None:
    """It is taken apart as when it runs, and not run."""
    command = typer.main.get_command(app)
    arguments = shlex.split(line)[1:]
    context = command.make_context("ftray", [], resilient_parsing=True)
    while arguments and hasattr(command, "get_command"):
        name, command, arguments = command.resolve_command(context, arguments)
        if hasattr(command, "get_command"):
            context = command.make_context(name, [], resilient_parsing=True)
    if arguments:
        try:
            command.make_context(line, arguments)
        except UsageError as error:
            raise AssertionError(f"{line}: {error.format_message()}") from None


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGES[page]):
        assert (folder / target).exists(), target
