"""The S3 server of the tests fails as it is told to, and works again."""

from __future__ import annotations

import time

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.helpers.external.object_store import Fault, ObjectStore

ONE_TRY = Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=1)


def client(store: ObjectStore) -> object:
    return boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
        config=ONE_TRY,
    )


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name)
def test_a_fault_is_met_and_ends(object_store: ObjectStore, fault: Fault) -> None:
    s3 = client(object_store)
    s3.put_object(Bucket="data", Key="a", Body=b"x" * 100_000)
    with object_store.failing(fault), pytest.raises((BotoCoreError, ClientError, OSError)):
        s3.put_object(Bucket="data", Key="b", Body=b"y" * 100_000)
        s3.get_object(Bucket="data", Key="a")["Body"].read()
    stored = fault in (Fault.LOSE_ANSWERS, Fault.CUT_DOWNLOADS)
    assert object_store.keys() == (["a", "b"] if stored else ["a"])
    assert s3.get_object(Bucket="data", Key="a")["Body"].read() == b"x" * 100_000


def test_a_stopped_store_refuses_and_comes_back_on_its_port(object_store: ObjectStore) -> None:
    s3 = client(object_store)
    with object_store.stopped(), pytest.raises(BotoCoreError):
        s3.put_object(Bucket="data", Key="a", Body=b"x")
    s3.put_object(Bucket="data", Key="a", Body=b"x")
    started = time.monotonic()
    with object_store.stopped(seconds=0.5), pytest.raises(BotoCoreError):
        s3.put_object(Bucket="data", Key="b", Body=b"x")
    assert time.monotonic() - started > 0.4
    assert object_store.keys() == ["a"]


def test_of_two_conditional_writes_one_is_done(object_store: ObjectStore) -> None:
    s3 = client(object_store)
    s3.put_object(Bucket="data", Key="a", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket="data", Key="a", Body=b"2", IfNoneMatch="*")
