"""Rows of tables in requests: fields that may be missing, and values of the wrong type."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from fastapi import HTTPException
from pydantic import TypeAdapter, ValidationError

from ftray.serve.protocols.oip.tensors import read_request
from ftray.serve.signature import Signature, inlined, input_type, question_of, request_type

OF: Signature = (("age", "number"), ("job", "category"), ("_day", "date"), ("model_x y", "note"))


def asked(*inputs: Any) -> list[Any]:
    request: Any = request_type(OF).model_validate({"inputs": list(inputs)})
    return [question_of(each) for each in request.inputs]


def test_fields_may_be_missing_and_names_may_be_any() -> None:
    whole = {"age": 3.5, "job": "cook", "_day": "2024-01-31", "model_x y": "a text"}
    assert asked(whole, {}, {"age": None}) == [whole, {}, {"age": None}]
    assert asked({"age": "41", "job": True, "_day": ""}) == [
        {"age": 41, "job": "true", "_day": None}
    ]
    assert question_of(TypeAdapter(input_type(OF[:1])).validate_python({"age": 1})) == {"age": 1}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"age": "old"}, "a number is wanted, or null, not 'old'"),
        ({"age": True}, "a number is wanted"),
        ({"age": math.inf}, "an infinite number"),
        ({"job": ["cook"]}, "list, which is no number"),
        ({"_day": "tomorrow"}, "a date as 2026-01-31 is wanted"),
        ({"_day": 20240131}, "a date as 2026-01-31 is wanted"),
        ({"jbo": "cook"}, "not permitted"),
        ("a text", "dictionary"),
    ],
)
def test_a_wrong_value_is_told_with_its_field(row: Any, told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        asked({"age": 1}, row)
    (fault,) = caught.value.errors()
    assert told in fault["msg"] and fault["loc"][:2] == ("inputs", 1)
    if isinstance(row, dict):
        assert fault["loc"][2:] == tuple(row)


def test_the_schema_of_a_request_names_the_fields() -> None:
    told = json.dumps(inlined(request_type(OF).model_json_schema()))
    assert all(json.dumps(name) in told for name, _ in OF) and "$ref" not in told


def tensor(name: str, kind: str, data: Any, **parameters: Any) -> dict[str, Any]:
    count = len(data) if data is not None else 2
    found = {"name": name, "datatype": kind, "shape": [count], "parameters": parameters}
    return found if data is None else {**found, "data": data}


def infer(*tensors: dict[str, Any], blob: bytes = b"") -> list[Any]:
    head = json.dumps({"inputs": tensors}).encode()
    _, questions = read_request(head + blob, str(len(head)), OF, ("label",))
    return questions


def test_each_field_is_a_tensor_which_may_be_left_out() -> None:
    jobs = tensor("job", "BYTES", ["cook", None])
    rows = [{"age": 3.5, "job": "cook"}, {"age": None, "job": None}]
    assert infer(tensor("age", "FP64", [3.5, None]), jobs) == rows
    binary = infer(
        tensor("age", "FP64", None, binary_data_size=16), jobs, blob=struct.pack("<dd", 3.5, 4)
    )
    assert binary == [{"age": 3.5, "job": "cook"}, {"age": 4, "job": None}]


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ((tensor("job", "FP64", [1.0]),), "datatype: BYTES is wanted"),
        ((tensor("age", "BYTES", ["old"]),), r"inputs.0.data.0: .*a number is wanted"),
        ((tensor("jbo", "BYTES", ["cook"]),), "some of the names age"),
        ((tensor("age", "FP64", [1]), tensor("job", "BYTES", ["a", "b"])), "number of rows"),
        ((tensor("age", "FP64", None, binary_data_size=3),), "no whole number"),
    ],
)
def test_a_wrong_tensor_is_told(tensors: Any, told: str) -> None:
    with pytest.raises(HTTPException) as caught:
        infer(*tensors, blob=b"abc" if tensors[0].get("data") is None else b"")
    assert caught.value.status_code == 400
    import re

    assert re.search(told, caught.value.detail), caught.value.detail
