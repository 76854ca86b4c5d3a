"""Lists of items in requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import HTTPException
from pydantic import ValidationError

from ftray.serve.protocols.oip.tensors import read_request
from ftray.serve.signature import Signature, inlined, question_of, request_type

OF: Signature = (("items", "items"),)


def asked(inputs: Any) -> list[Any]:
    request: Any = request_type(OF).model_validate({"inputs": inputs})
    return [question_of(each) for each in request.inputs]


def test_an_input_is_an_object_with_a_list_of_names() -> None:
    assert asked({"items": ["a", 7.0]}) == [{"items": ["a", "7"]}]
    assert asked([{"items": ["a"]}, {"items": ["b", "b"]}]) == [
        {"items": ["a"]},
        {"items": ["b", "b"]},
    ]
    told = json.dumps(inlined(request_type(OF).model_json_schema()))
    assert '"maxItems": 10000' in told and "$ref" not in told


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"items": []}, "1 to 10,000 items are wanted, not 0"),
        ({"items": ["a"] * 10_001}, "not 10,001"),
        ({"items": None}, "a list of names is wanted"),
        ({"items": ["a", None]}, "missing_item"),
        ({"items": ["a", ["b"]]}, "item_not_a_name"),
        ({"item": ["a"]}, "missing"),
        (["a"], "valid"),
    ],
)
def test_a_wrong_list_is_told(row: Any, told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        asked([{"items": ["a"]}, row])
    assert told in " ".join(fault["msg"] + fault["type"] for fault in caught.value.errors())


def infer(*data: Any) -> list[Any]:
    tensor = {"name": "items", "shape": [len(data)], "datatype": "BYTES", "data": list(data)}
    return read_request(json.dumps({"inputs": [tensor]}).encode(), None, OF, ["items"])[1]


def test_a_tensor_has_lists_as_json() -> None:
    assert infer('["a", "b"]', "[7]") == [{"items": ["a", "b"]}, {"items": ["7"]}]
    with pytest.raises(HTTPException, match=r"inputs.0.data.1: .*items_not_json"):
        infer('["a"]', "[a")
