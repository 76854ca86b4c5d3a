"""The training-loop runs that the tests inspect, made once by one process and once by two.

Runs are in fp32 unless stated otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.helpers.training.loop_runs import Run, checkpoint

STAGES = (0, 1, 2, 3)
WORLDS = (1, 2)
# A single worker has no other rank to shard its state with, and always runs at stage 0.
CASES = ((1, 0), (2, 0), (2, 1), (2, 2), (2, 3))
ENDS = ((1, 0), (2, 0), (2, 3))
# Model families whose blocks are not one list of layers, and a ZeRO stage for each.
UNSTACKED = {"albert": 2, "bart": 0, "t5": 3}
TWO_STACKS = ("bart", "t5")
# Keys of task_kinds.KINDS; the stages of those that share a task with another.
KIND_STAGES = {"pairs": (0, 3), "vit": (0, 3), "preferences": (0, 3)}
TASK_KINDS = ("regression", "pairs", "answers", "convolutions", "vit", "preferences")
# Kinds whose loss terms differ between examples, or whose tokens are hidden at random: they are
# resumed, and tried with two workers, at stage 0 alone.
TOKEN_KINDS = ("tags", "hidden words")
# Number of workers -> the micro-batch that is a worker's whole share of the batch: where a loss
# couples rows, smaller ones are computed twice.
SHARES = {1: 16, 2: 8}

TRAIN = {
    "epochs": 2,
    # 35 rows make batches of 16, 16 and 3. Of the last batch's four micro-batches three are empty,
    # and with two workers one rank has no row at all.
    "batch_size": 16,
    "micro_batch_size": 4,
    "learning_rate": 1e-2,
    "unfreeze": 2,
    "precision": "fp32",
}

PHASED: dict[str, Any] = {
    "epochs": 3,
    "unfreeze": [
        {"epoch": 0, "blocks": "head", "rate": 2},
        {"epoch": 1, "blocks": 1},
        {"epoch": 2, "blocks": "all"},
    ],
}
EVENED: dict[str, dict[str, Any]] = {
    "smoothed": {"label_smoothing": 0.2},
    "weighted": {"balance": "weights"},
    "sampled": {"balance": "sampling"},
}
OFFLOADED = (2, 3)
# Stage -> the step at which a run in phases is resumed: at the start of a phase, or within one.
FROM = {0: 4, 1: 3, 2: 4, 3: 3}
GROUPS = [{"match": "^classifier", "learning_rate": 0.05, "weight_decay": 0.5}]
LORA: dict[str, Any] = {"lora": {"rank": 4, "dropout": 0.1}}
DORA: dict[str, Any] = {"lora": {"rank": 4, "options": {"use_dora": True, "bias": "lora_only"}}}
NF4: dict[str, Any] = {**LORA, "weights": "nf4"}
NF4_STAGES = {1: 0, 2: 2}
LORA_PHASES = {**PHASED, **LORA}
RISING = [{"epoch": 0, "blocks": "head"}, {"epoch": 1, "blocks": 1}]
REFROZEN = [{"epoch": 0, "blocks": "all"}, {"epoch": 1, "blocks": ["classifier", r"layer\.1\."]}]


def run(name: str, stage: int = 0, **changes: Any) -> Run:
    fields = {
        key: changes.pop(key)
        for key in (
            "resume",
            "dropout",
            "stop_after",
            "every",
            "rows",
            "trunk",
            "model",
            "kind",
            "apart",
        )
        if key in changes
    }
    return Run(name, {**TRAIN, "deepspeed": {"stage": stage}, **changes}, **fields)


def runs(world: int, folder: Path) -> list[Run]:
    made = []
    stages, ends = ([stage for of, stage in cases if of == world] for cases in (CASES, ENDS))
    for stage in stages:
        made.append(run(f"{world}-stage-{stage}", stage))
        made.append(run(f"{world}-stage-{stage}-resumed", stage, resume=f"{world}-stage-{stage}/3"))
        phases = {**PHASED, "dropout": 0.0, "every": 1}
        made.append(run(f"{world}-phases-{stage}", stage, **phases))
        name, step = f"{world}-phases-{stage}", FROM[stage]
        made.append(run(f"{name}-resumed", stage, **phases, resume=f"{name}/{step}"))
        made.append(run(f"{world}-lora-{stage}", stage, **LORA))
    for stage in ends:
        made.append(run(f"{world}-refrozen-{stage}", stage, unfreeze=REFROZEN, every=1))
        made.append(run(f"{world}-stops-{stage}", stage, stop_after=2))
        made.append(run(f"{world}-goes-on-{stage}", stage, resume=f"{world}-stops-{stage}/2"))
        name = f"{world}-lora-{stage}"
        made.append(run(f"{name}-resumed", stage, **LORA, resume=f"{name}/3"))
        name = f"{world}-cached-{stage}"
        made.append(run(name, stage, trunk="fp32"))
        made.append(run(f"{name}-resumed", stage, trunk="fp32", resume=f"{name}/3"))
        made.append(run(f"{world}-cached-low-{stage}", stage, trunk="bf16"))
        made.append(run(f"{world}-skips-{stage}", stage, learning_rate=1e30, skip_nonfinite=99))
        name = f"{world}-normed-{stage}"
        made.append(run(name, stage, model="normed"))
        made.append(run(f"{name}-resumed", stage, model="normed", resume=f"{name}/3"))
    for kind in TASK_KINDS:
        made += kind_runs(kind, world, stages, ends)
    for kind in TOKEN_KINDS:
        name, own = f"{world}-{kind}-0", {"kind": kind, "unfreeze": "all"}
        made += [run(name, **own), run(f"{name}-resumed", **own, resume=f"{name}/3")]
    made += packed_runs(world)
    made += coupled_runs(world, ends)
    for stage in (2, 3):
        own = {"deepspeed": str(folder / f"bf16-{stage}.json"), "precision": "bf16"}
        made.append(run(f"{world}-bf16-{stage}", **own))
        made.append(run(f"{world}-bf16-{stage}-resumed", **own, resume=f"{world}-bf16-{stage}/3"))
    return [
        *made,
        *(run(f"{world}-{family}", stage, model=family, unfreeze="all")
          for family, stage in UNSTACKED.items()),
        *(run(f"{world}-{family}-resumed", stage, model=family, unfreeze="all",
              resume=f"{world}-{family}/3") for family, stage in UNSTACKED.items()),
        *(run(f"{world}-{family}-lp-ft", stage, model=family, unfreeze="lp-ft")
          for family, stage in UNSTACKED.items()),
        *(run(f"{world}-{family}-two{rest}", UNSTACKED[family], model=family, unfreeze=2, **resume)
          for family in TWO_STACKS
          for rest, resume in (("", {}), ("-resumed", {"resume": f"{world}-{family}-two/3"}))),
        run(f"{world}-experts", model="experts", unfreeze="all", dropout=0.0),
        run(f"{world}-experts-resumed", model="experts", unfreeze="all", dropout=0.0,
            resume=f"{world}-experts/3"),
        run(f"{world}-apart", apart=True, resume=f"{world}-stage-0/3"),
        run(f"{world}-experts-apart", apart=True, model="experts", unfreeze="all", dropout=0.0),
        run(f"{world}-skips-apart", apart=True, learning_rate=1e30, skip_nonfinite=99),
        run(f"{world}-phases-apart", apart=True, **PHASED, dropout=0.0, every=1),
        run(f"{world}-normed-phases", 2, model="normed", **PHASED),
        run(f"{world}-normed-phases-resumed", 2, model="normed", **PHASED,
            resume=f"{world}-normed-phases/6"),
        run(f"{world}-normed-lora", model="normed", **LORA),
        run(f"{world}-normed-skips", model="normed", learning_rate=1e30, skip_nonfinite=99),
        run(f"{world}-normed-recomputes", model="normed", gradient_checkpointing=True),
        run(f"{world}-ibert", model="ibert"),
        run(f"{world}-ibert-resumed", model="ibert", resume=f"{world}-ibert/3"),
        run(f"{world}-cached-head", 2, unfreeze=0, trunk="fp32"),
        run(f"{world}-cached-lora", **LORA, trunk="fp32"),
        *(run(f"{world}-nf4{rest}", NF4_STAGES[world], **NF4, **more) for rest, more in (
            ("", {}), ("-resumed", {"resume": f"{world}-nf4/3"}), ("-cached", {"trunk": "fp32"}))),
        run(f"{world}-rising", unfreeze=RISING),
        run(f"{world}-cached-rising", unfreeze=RISING, trunk="fp32"),
        run(f"{world}-two-chunks", micro_batch_size=8),
        run(f"{world}-without-dropout", dropout=0.0),
        run(f"{world}-clipped", dropout=0.0, clip=0.1),
        run(f"{world}-not-clipped", 2, dropout=0.0, clip=None, schedule="cosine"),
        *(run(f"{world}-unfreeze-{depth}", 2, unfreeze=depth) for depth in (0, "all")),
        run(f"{world}-autocast", 2, precision="bf16"),
        run(f"{world}-autocast-resumed", 2, precision="bf16", resume=f"{world}-autocast/3"),
        run(f"{world}-rates", dropout=0.0, layer_decay=0.5, groups=GROUPS),
        run(f"{world}-rates-resumed", dropout=0.0, layer_decay=0.5, groups=GROUPS,
            resume=f"{world}-rates/3"),
        run(f"{world}-dora", 3, **DORA),
        run(f"{world}-dora-resumed", 3, **DORA, resume=f"{world}-dora/3"),
        *(run(f"{world}-lora-phases-{stage}", stage, **LORA_PHASES) for stage in ends),
        run(f"{world}-lora-phases-{ends[-1]}-resumed", ends[-1], **LORA_PHASES,
            resume=f"{world}-lora-phases-{ends[-1]}/6"),
        *(run(f"{world}-diverges-{stage}", stage, learning_rate=1e30) for stage in ends),
        *(run(f"{world}-{name}", dropout=0.0, **changes) for name, changes in EVENED.items()),
        run(f"{world}-fewer-tokens", dropout=0.0, token_dropout=0.9),
        run(f"{world}-fewer-tokens-resumed", dropout=0.0, token_dropout=0.9,
            resume=f"{world}-fewer-tokens/3"),
        run(f"{world}-by-heart", epochs=8, dropout=0.0, every=99),
        run(f"{world}-guarded", epochs=1, learning_rate=1e-12, balance="weights",
            label_smoothing=0.5, token_dropout=0.5),
        *(run(f"{world}-recomputes-{stage}", stage, gradient_checkpointing=True)
          for stage in ends),
        *(run(f"{world}-offload-{stage}", deepspeed={"stage": stage, "offload": "cpu"})
          for stage in OFFLOADED),
        *(run(f"{world}-offload-{stage}-resumed", deepspeed={"stage": stage, "offload": "cpu"},
              resume=f"{world}-offload-{stage}/3") for stage in OFFLOADED),
        run(
            f"{world}-stops-early", 2, epochs=9, learning_rate=1e-12,
            early_stopping={"patience": 2},
        ),
    ]  # fmt: skip


def kind_runs(kind: str, world: int, stages: list[int], ends: list[int]) -> list[Run]:
    """The runs of one kind of task: at each stage, resumed, and with a trunk cache. How two workers
    share a cache does not depend on the kind: the classifier's runs show it."""
    own: dict[str, Any] = {"kind": kind, "learning_rate": 5e-3}
    tried = KIND_STAGES.get(kind, STAGES)
    made = [run(f"{world}-{kind}-{stage}", stage, **own) for stage in stages if stage in tried]
    for stage in ends:
        name = f"{world}-{kind}-{stage}"
        made.append(run(f"{name}-resumed", stage, **own, resume=f"{name}/3"))
    for depth in (0, 1) if world == 1 else ():
        name = f"{kind}-top-{depth}"
        made.append(run(name, unfreeze=depth, **own))
        made.append(run(f"{name}-cached", unfreeze=depth, trunk="fp32", **own))
    return made


def packed_runs(world: int) -> list[Run]:
    """The runs whose examples share rows, and those of the same rows whose examples do not: at
    stage 0, and with a trunk cache. Short examples lie beside long ones in a batch of this size."""
    own = {"unfreeze": 2, "micro_batch_size": 8}
    made = [run(f"{world}-{kind}-0", kind=kind, **own) for kind in ("completions", "packed")]
    made.append(run(f"{world}-packed-0-cached", kind="packed", **own, trunk="fp32"))
    made.append(
        run(f"{world}-packed-0-resumed", kind="packed", **own, resume=f"{world}-packed-0/3")
    )
    return made


def coupled_runs(world: int, stages: list[int]) -> list[Run]:
    """The runs of a task whose loss couples the rows of a batch: computed once and twice, resumed,
    and with a trunk cache."""
    own: dict[str, Any] = {"kind": "embeddings", "learning_rate": 5e-3}
    name, made = f"{world}-embeddings-0", []
    for stage in stages:
        made.append(run(f"{world}-embeddings-{stage}", stage, **own))
        for many, size in (("once", SHARES[world]), ("twice", 4)):
            if stage and many == "twice":
                continue  # the run above is computed twice, too
            of = run(f"{world}-embeddings-{many}-{stage}", stage, **own, micro_batch_size=size)
            # A micro-batch has dropout of its own, so that its size matters.
            made.append(replace(of, train={**of.train, "dropout": 0.0}))
    made.append(run(f"{name}-resumed", **own, resume=f"{name}/3"))
    made.append(run(f"{name}-cached", **own, trunk="fp32"))
    return made


def final(root: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(root / name / "final.safetensors")


def held(root: Path, reference: str) -> dict[str, torch.Tensor]:
    return load_file(checkpoint(root, reference) / "trainable.safetensors")


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in after if name not in before or before[name].ne(after[name]).any()}
