"""What README.md and docs/ show is so: specs are valid, rows can be read, keys, commands and
methods are there, links lead somewhere."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from click.exceptions import UsageError
from pydantic import TypeAdapter

from ftray.cli.main import app
from ftray.serve import signature
from ftray.serve.protocols.oip import outputs as tensors
from ftray.spec.load import parse
from ftray.spec.paths import paths
from ftray.spec.schema import Spec
from ftray.tasks import TASKS, TaskInfo, get_task
from ftray.tasks.base import BaseTask
from tests.helpers.task_samples import SAMPLES, columns_of

ROOT = Path(__file__).parents[2]
PAGES = {page.name: page.read_text() for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
SPECS = [
    (name, block)
    for name, text in PAGES.items()
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
]
SECTIONS = "|".join(name for name, field in Spec.model_fields.items() if field.annotation)
SECTIONS_OF_TASKS = dict(
    re.findall(r"^### `([\w-]+)`\n(.*?)(?=^##)", PAGES["spec.md"], re.MULTILINE | re.DOTALL)
)
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


@pytest.mark.parametrize("name", TASKS)
def test_each_task_has_a_spec_and_rows_that_it_reads(name: str) -> None:
    text = SECTIONS_OF_TASKS[name]
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(block)["task"] == name
    task = get_task(name)
    if task.info.files:
        return
    (lines,) = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = set()
    for row in map(json.loads, lines.splitlines()):
        if "record" in task.info.columns:
            cells = {name: row[name] for name in row.keys() - {*task.info.answers}}
            row = {"record": cells, **{name: row[name] for name in task.info.answers}}
        form = max((f for f in task.info.forms if set(f) <= row.keys()), key=len)
        if (of := task.info.sequences) and of.user in form:
            shown.add(form)  # events are grouped before they are parsed
            continue
        assert task.parse({column: row[column] for column in form})
        shown.add(form)
    assert shown == set(task.info.forms)


def test_each_option_of_a_task_is_told_with_its_default() -> None:
    told = {}
    for line in re.findall(r"^\|.*\|$", PAGES["spec.md"], re.MULTILINE):
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        told[cells[1]] = cells[2] if len(cells) > 2 else ""
    for task in TASKS.values():
        for option, field in task.info.options.model_fields.items():
            assert yaml.safe_load(told[option]) == field.default, option


def test_each_task_is_told_with_its_columns_and_metrics() -> None:
    (table,) = re.findall(r"^\| task \|.*?\n\n", PAGES["tasks.md"], re.MULTILINE | re.DOTALL)
    of: dict[str, set[str]] = {}
    for line in table.splitlines()[2:]:
        name = (re.findall(r"^\| `([\w-]+)`", line) or list(of)[-1:])[0]
        of.setdefault(name, set()).update(re.findall(r"`(\w+)`", line))
    assert of.keys() == TASKS.keys()
    for name, task in TASKS.items():
        assert {*task.info.columns, *task.info.metrics} <= of[name]


def test_the_page_on_tasks_has_every_part_of_the_contract() -> None:
    _, _, text = PAGES["tasks.md"].partition("### `TaskInfo`")
    info, _, task = text.partition("### `BaseTask`")
    named = set(re.findall(r"`(\w+)`", info))
    assert {field.name for field in fields(TaskInfo)} <= named
    methods = {n for n, _ in inspect.getmembers(BaseTask, callable) if not n.startswith("_")}
    assert methods <= set(re.findall(r"`(\w+)`", task))


def test_the_task_on_the_page_is_whole() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGES["tasks.md"], re.MULTILINE | re.DOTALL)
    there: dict[str, Any] = {}
    exec(code, there)
    task = there["TextPairClassification"]()
    pair = {"text": "A cat sits.", "text_pair": "A dog sits."}
    rows = tuple(task.parse({**pair, "label": label}) for label in ("same", "other"))
    setup = SAMPLES["text-classification"].setup(get_task("text-classification"))
    setup = type(setup)(setup.processor, task.fit(rows), setup.max_length)
    examples = task.examples(setup, columns_of(rows)).each()
    batch = task.collate(setup, examples)
    assert batch.targets["labels"].tolist() == [1, 0]
    assert batch.inputs["input_ids"].shape == batch.inputs["token_type_ids"].shape
    assert task.question(rows[0]) == pair == task.ask(pair)
    assert len(task.encode(setup, [pair])[0]) == 1


@pytest.mark.parametrize("kind", signature.OUTPUTS)
def test_each_kind_of_answer_is_shown_as_it_is(kind: signature.Output) -> None:
    rows = re.findall(rf"^\| `{kind}` \|(.*)\|$", PAGES["serving.md"], re.MULTILINE)
    answers, outputs, columns = rows
    tasks = {name for name, task in TASKS.items() if task.info.output == kind}
    assert tasks <= set(re.findall(r"`([\w-]+)`", answers))
    for shown in re.findall(r"`({.*?})`", answers):
        TypeAdapter(signature.OUTPUTS[kind]).validate_json(shown)
    told = re.findall(r"`(\w+)` (\w+)", outputs)
    assert told == [(name, of.datatype) for name, of in tensors.OUTPUTS[kind].items()]
    named = set(re.findall(r"`(\w+)`", columns))
    assert all({*TASKS[name].info.outcome} <= named for name in tasks)
