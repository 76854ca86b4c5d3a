"""Counts of several replicas on one page."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ftray.serve.ops.metrics import Metrics, page
from tests.helpers.serving.fake_backend import FakeBackend

DASHBOARD = Path(__file__).parents[4] / "k8s" / "dashboard.json"


def test_the_page_has_each_replicas_counts_once() -> None:
    replicas = [Metrics(name) for name in ("one", "two")]
    for number, replica in enumerate(replicas, 1):
        for _ in range(number):
            replica.count_request("reviews", "3", "/v1/predict", 200)
            replica.count_prediction("reviews", "3", 0.015)
            replica.count_batch("reviews", 3, 8, 0.01, 0.02)
            replica.count_answer("writer", 1, 7, 40, 0.1)
            replica.count_labels("reviews", 3, ["good", "bad", "good"])
    # As they come from other processes.
    snapshots = [
        pickle.loads(pickle.dumps(replica.snapshot([FakeBackend()], waiting=5)))
        for replica in replicas
    ]
    families = {f.name: f for f in text_string_to_metric_families(page(snapshots).decode())}
    assert set(families) == {
        "ftray_requests",
        "ftray_predict_seconds",
        "ftray_batch_rows",
        "ftray_forward_seconds",
        "ftray_predictions",
        "ftray_queue_seconds",
        "ftray_shadow_rows",
        "ftray_tokens",
        "ftray_first_token_seconds",
        "ftray_waiting_rows",
        "ftray_replica_up",
    }
    counted = {s.labels["replica"]: s for s in families["ftray_requests"].samples}
    assert {name: s.value for name, s in counted.items()} == {"one": 1, "two": 2}
    assert counted["one"].labels["model"] == "reviews"
    assert counted["one"].labels["version"] == "3"
    rows = {
        s.labels["replica"]: s.value
        for s in families["ftray_batch_rows"].samples
        if "_sum" in s.name
    }
    assert rows == {"one": 8, "two": 16}
    assert sum(s.value for s in families["ftray_replica_up"].samples) == 2
    assert sum(s.value for s in families["ftray_waiting_rows"].samples) == 10
    told = {
        (s.labels["replica"], s.labels["label"]): s.value
        for s in families["ftray_predictions"].samples
    }
    tokens = {
        (s.labels["replica"], s.labels["of"]): s.value for s in families["ftray_tokens"].samples
    }
    assert tokens[("one", "prompt")] == 7 and tokens[("two", "answer")] == 80
    assert told[("one", "good")] == 2 and told[("two", "bad")] == 2


def test_the_dashboard_shows_what_is_counted() -> None:
    shown = re.findall(r"ftray_\w+", DASHBOARD.read_text())
    counted = text_string_to_metric_families(
        page([Metrics("r").snapshot([FakeBackend()], 0)]).decode()
    )
    known = {family.name for family in counted}
    for name in shown:
        assert re.sub(r"_(total|bucket|sum|count)$", "", name) in known, name
    assert known <= {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown}


def test_a_page_of_no_replicas_is_empty() -> None:
    assert page([]) == b""
