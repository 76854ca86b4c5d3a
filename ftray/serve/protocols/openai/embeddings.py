"""The embeddings path of OpenAI's protocol: from the vectors of texts to the body of an answer."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np

from ftray.serve.interface import Answers, Backends
from ftray.serve.protocols.errors import Refused
from ftray.serve.protocols.openai.requests import EmbeddingRequest
from ftray.serve.protocols.openai.responses import Embedding, Embeddings, EmbeddingUsage


def dimensions_schema(backends: Backends) -> dict[str, Any]:
    """Return an addition to the operation in the OpenAPI document: the largest `dimensions` that a
    served model can give."""
    sizes = [backend.info.embedding_size for backend in backends.entries]
    most = max((size for size in sizes if size is not None), default=None)
    limit = {} if most is None else {"maximum": most}
    schema = {"properties": {"dimensions": limit}}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def embeddings(request: EmbeddingRequest, address: str, answers: Answers) -> Embeddings:
    """Return the body of an answer. address: of the model. Raises Refused where the vectors have
    fewer numbers than asked."""
    vectors = _shortened(np.array(answers.outputs, np.float32), request.dimensions)
    usage = EmbeddingUsage(prompt_tokens=answers.tokens, total_tokens=answers.tokens)
    data = [
        Embedding(index=index, embedding=_encoded(vector, request.encoding_format))
        for index, vector in enumerate(vectors)
    ]
    return Embeddings(data=data, model=address, usage=usage)


def _shortened(vectors: np.ndarray, count: int | None) -> np.ndarray:
    """Return the first numbers of each vector, scaled to length 1 again."""
    width = vectors.shape[1]
    if count is None or count == width:
        return vectors
    if count > width:
        raise Refused(400, f"dimensions: the vectors have {width} numbers", "dimensions")
    found: np.ndarray = vectors[:, :count]
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.maximum(lengths, np.finfo(np.float32).tiny)


def _encoded(vector: np.ndarray, form: str) -> list[float] | str:
    if form == "base64":
        return b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
