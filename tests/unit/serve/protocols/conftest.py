"""A generator and a client of its service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.helpers.serving.fake_backend import FakeGenerator
from tests.helpers.serving.openai_client import serving


@pytest.fixture
def writer() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def client(writer: FakeGenerator) -> Iterator[TestClient]:
    with serving(writer) as client:
        yield client
