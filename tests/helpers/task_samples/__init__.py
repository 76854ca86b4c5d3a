"""Test data for each task: the contract suite needs no more of a task than one `Sample`."""

from __future__ import annotations

from tests.helpers.task_samples.generation import (
    PREFERENCE_TUNING,
    TEXT2TEXT_GENERATION,
    TEXT_GENERATION,
)
from tests.helpers.task_samples.images import IMAGE_CLASSIFICATION, picture
from tests.helpers.task_samples.items import NEXT_ITEM
from tests.helpers.task_samples.labels import MULTI_LABEL, TEXT_CLASSIFICATION, TEXT_REGRESSION
from tests.helpers.task_samples.retrieval import FEATURE_EXTRACTION, FILL_MASK, TEXT_RANKING
from tests.helpers.task_samples.sample import UNREAD, Sample, columns_of
from tests.helpers.task_samples.spans import QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from tests.helpers.task_samples.tables import (
    TABULAR_CLASSIFICATION,
    TABULAR_FILL_MASK,
    TABULAR_REGRESSION,
)

__all__ = ["SAMPLES", "Sample", "UNREAD", "columns_of", "picture"]

SAMPLES = {
    "text-classification": TEXT_CLASSIFICATION,
    "multi-label-classification": MULTI_LABEL,
    "text-regression": TEXT_REGRESSION,
    "token-classification": TOKEN_CLASSIFICATION,
    "question-answering": QUESTION_ANSWERING,
    "text-generation": TEXT_GENERATION,
    "text2text-generation": TEXT2TEXT_GENERATION,
    "preference-tuning": PREFERENCE_TUNING,
    "fill-mask": FILL_MASK,
    "feature-extraction": FEATURE_EXTRACTION,
    "text-ranking": TEXT_RANKING,
    "image-classification": IMAGE_CLASSIFICATION,
    "tabular-classification": TABULAR_CLASSIFICATION,
    "tabular-regression": TABULAR_REGRESSION,
    "tabular-fill-mask": TABULAR_FILL_MASK,
    "next-item-prediction": NEXT_ITEM,
}
