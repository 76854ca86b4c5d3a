"""A hundred malformed or abusive requests as raw bytes, each with the acceptable statuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

V1, V2 = "/v1/predict", "/v2/models/tiny/infer"
DEEP = 20_000
MB = 2**20
JSON = {"content-type": "application/json"}
CLIENT_ERRORS = frozenset(range(400, 500))


@dataclass(frozen=True)
class Hostile:
    name: str
    content: bytes
    statuses: frozenset[int] = CLIENT_ERRORS


def http(
    body: bytes = b"",
    path: str = V1,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    length: int | str | None = None,
) -> bytes:
    """Builds the raw bytes of a request. `length`: the content-length that its header claims."""
    told = {"host": "127.0.0.1", "connection": "close", **(JSON if headers is None else headers)}
    told["content-length"] = str(len(body) if length is None else length)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items())]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def requests() -> list[Hostile]:
    return [*_bodies(), *_tensors(), *_paths(), *_methods(), *_headers(), *_sizes()]


def _bodies() -> Iterator[Hostile]:
    """Bodies sent to /v1/predict."""
    values: dict[str, Any] = {
        "null": None,
        "true": True,
        "a number": 3,
        "a huge number": 10**400,
        "a float": 1.5,
        "an object": {"a": "b"},
        "an empty list": [],
        "nested": [["a"]],
        "nested deep": [[[["a"]]]],
        "mixed": ["a", 1, None],
        "a list of nulls": [None] * 10,
        "an object in a list": [{"text": "a"}],
        "too many": ["a"] * 1025,
        "far too many": ["a"] * 100_000,
        "a text too long": "a" * 100_001,
    }
    for name, value in values.items():
        yield Hostile(f"inputs: {name}", http(json.dumps({"inputs": value}).encode()))
    for value in (0, -1, 1.5, "2", True, [], {}):
        body = json.dumps({"inputs": "a", "top_k": value}).encode()
        yield Hostile(f"top_k: {value!r}", http(body))
    for key in ("input", "Inputs", "__class__", "", "\u0000", "../inputs", "$where"):
        yield Hostile(f"a key {key!r}", http(json.dumps({"inputs": "a", key: 1}).encode()))
    raw: dict[str, bytes] = {
        "nothing": b"",
        "a space": b" ",
        "half an object": b'{"inputs": ["a"',
        "a bare word": b"inputs",
        "NaN": b"NaN",
        "NaN as a row": b'{"inputs": [NaN]}',
        "infinity as a row": b'{"inputs": [-Infinity]}',
        "two objects": b'{"inputs": "a"}{"inputs": "b"}',
        "a trailing comma": b'{"inputs": ["a",]}',
        "single quotes": b"{'inputs': 'a'}",
        "a comment": b'{"inputs": "a" /* x */}',
        "not UTF-8": b'{"inputs": "\xff\xfe"}',
        "a torn character": b'{"inputs": "\xf0\x9f"}',
        "overlong UTF-8": b'{"inputs": "\xc0\xaf"}',
        "half a surrogate": b'{"inputs": ["\\ud800"]}',
        "a control character": b'{"inputs": "a\x00b"}',
        "a wrong escape": b'{"inputs": "\\x41"}',
        "an array": b'["a"]',
        "a text": b'"a"',
        "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94.",
        "a gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
        "XML": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "deep arrays": b'{"inputs": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        "deep objects": b'{"inputs": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
        "deep and open": b"[" * DEEP,
        "a long number": b'{"inputs": ' + b"9" * 100_000 + b"}",
        "a long key": b'{"' + b"k" * 100_000 + b'": 1}',
        "many keys": b"{" + b",".join(b'"k%d": 1' % n for n in range(20_000)) + b"}",
    }
    for name, body in raw.items():
        yield Hostile(f"body: {name}", http(body))


def _tensors() -> Iterator[Hostile]:
    """Bodies sent to the Open Inference Protocol."""

    def tensor(**changes: Any) -> dict[str, Any]:
        whole = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
        return {**whole, **changes}

    wrong: dict[str, Any] = {
        "no tensors": [],
        "a number": 7,
        "a huge shape": [tensor(shape=[10**18])],
        "a negative shape": [tensor(shape=[-1])],
        "a deep shape": [tensor(shape=[1] * 10_000)],
        "a shape of text": [tensor(shape=["one"])],
        "numbers": [tensor(data=[1])],
        "an object": [tensor(data={"a": 1})],
        "another type": [tensor(datatype="FP32", data=[0.5])],
        "another name": [tensor(name="../../weights")],
        "shared memory": [tensor(parameters={"shared_memory_region": "x"}, data=None)],
        "binary data that never come": [tensor(parameters={"binary_data_size": 10**9})],
        "binary data of a negative size": [tensor(parameters={"binary_data_size": -1})],
        "a thousand tensors": [tensor()] * 1000,
    }
    for name, inputs in wrong.items():
        yield Hostile(f"v2 inputs: {name}", http(json.dumps({"inputs": inputs}).encode(), V2))
    body = json.dumps({"inputs": [tensor()]}).encode()
    for header in ("-1", "x", "99999999999", "1e3", ""):
        headers = {**JSON, "inference-header-content-length": header}
        if header:
            yield Hostile(f"v2 length {header}", http(body, V2, headers=headers))
    yield Hostile("v2 deep", http(b'{"inputs": ' + b"[" * DEEP + b"]" * DEEP + b"}", V2))
    yield Hostile("v2 version", http(body, "/v2/models/tiny/versions/-1/infer"))


def _paths() -> Iterator[Hostile]:
    body = b'{"inputs": "a"}'
    for path in (
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/v1/../../etc/passwd",
        "/v1/predict/../../../etc/shadow",
        "/..%5c..%5cwindows%5cwin.ini",
        "/v1/predict%00",
        "/v1/predict%0d%0aSet-Cookie:%20a=b",
        "/v1//predict",
        "/V1/PREDICT",
        "/v1/predict;jsessionid=1",
        "/v1/models/../../etc/passwd/predict",
        "/v1/models/..%2f..%2fetc%2fpasswd/predict",
        "/v1/models/%00/predict",
        "/v1/models//predict",
        "/v1/models/tiny@production/predict",
        "/v1/models/" + "a" * 3000,
        "/v2/models/..%2f..%2fetc%2fpasswd/infer",
        "/v2/models/%F0%9F%8E%AC/infer",
        "/.env",
        "/.git/config",
        "/wp-login.php",
        "/" + "a" * 6000,
        "/" + "a/" * 2000,
    ):
        yield Hostile(f"path {path[:40]}", http(body, path))


def _methods() -> Iterator[Hostile]:
    for method in ("GET", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"):
        yield Hostile(f"method {method}", http(b"", V1, method))
    # Ray itself refuses this method, and its own errors may arrive as 503.
    yield Hostile("method FOO", http(b"", V1, "FOO"), frozenset({400, 405, 501, 503}))


def _headers() -> Iterator[Hostile]:
    body = b'{"inputs": "a"}'
    for media in (
        "text/plain",
        "application/xml",
        "multipart/form-data",
        "application/x-pickle",
        "",
    ):
        yield Hostile(f"content-type {media!r}", http(body, headers={"content-type": media}))
    for length in ("-5", "abc", "1e2", "0x10"):
        yield Hostile(f"content-length {length}", http(body, length=length))
    yield Hostile("no HTTP", b"hello there\r\n\r\n")
    yield Hostile("no HTTP version", b"GET /\r\nhost: x\r\n\r\n", CLIENT_ERRORS | {0, 200})
    yield Hostile(
        "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n"
    )
    yield Hostile("a header without a name", http(body, headers={**JSON, "": "x"}))
    yield Hostile("a header of 200 KB", http(body, headers={**JSON, "x-big": "a" * 200_000}))
    chunked = http(b"", headers={**JSON, "transfer-encoding": "chunked"}).replace(
        b"content-length: 0\r\n", b""
    )
    yield Hostile("a chunk of no size", chunked + b"zz\r\n" + body + b"\r\n0\r\n\r\n")


def _sizes() -> Iterator[Hostile]:
    too_large = frozenset({413})
    # The proxy waits for the whole body before it asks a replica.
    yield Hostile("100 MB announced", http(b"", length=100 * MB), too_large | {408})
    text = b'{"inputs": "' + b"a" * (100 * MB) + b'"}'
    yield Hostile("100 MB sent", http(text), too_large)
    yield Hostile("8 MB of spaces", http(b" " * (8 * MB)), too_large)
    for name, body in (
        ("40 MB of a stream", b'"a"\n' * (10 * MB)),
        ("20 MB of line ends", b"\n" * (20 * MB)),
    ):
        yield Hostile(name, http(body, f"{V1}/stream"), too_large)
    yield Hostile("a stream's option", http(b'"a"\n', f"{V1}/stream?top_k=-1"))
