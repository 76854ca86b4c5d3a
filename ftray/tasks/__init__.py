"""The registry of tasks by name. Each task is one file with a subclass of `BaseTask`."""

from ftray.tasks.base import BaseTask as Task
from ftray.tasks.info import TaskInfo
from ftray.tasks.recommendation.next_item_prediction import NextItemPrediction
from ftray.tasks.tabular.tabular_classification import TabularClassification
from ftray.tasks.tabular.tabular_fill_mask import TabularFillMask
from ftray.tasks.tabular.tabular_regression import TabularRegression
from ftray.tasks.text.fill_mask import FillMask
from ftray.tasks.text.multi_label_classification import MultiLabelClassification
from ftray.tasks.text.preference_tuning import PreferenceTuning
from ftray.tasks.text.question_answering import QuestionAnswering
from ftray.tasks.text.retrieval.feature_extraction import FeatureExtraction
from ftray.tasks.text.retrieval.text_ranking import TextRanking
from ftray.tasks.text.text2text_generation import Text2TextGeneration
from ftray.tasks.text.text_classification import TextClassification
from ftray.tasks.text.text_generation import TextGeneration
from ftray.tasks.text.text_regression import TextRegression
from ftray.tasks.text.token_classification import TokenClassification
from ftray.tasks.vision.image_classification import ImageClassification

_TASKS = (
    TextClassification,
    MultiLabelClassification,
    TextRegression,
    TokenClassification,
    QuestionAnswering,
    TextGeneration,
    Text2TextGeneration,
    PreferenceTuning,
    FillMask,
    FeatureExtraction,
    TextRanking,
    ImageClassification,
    TabularClassification,
    TabularRegression,
    TabularFillMask,
    NextItemPrediction,
)
TASKS: dict[str, Task] = {task.info.name: task() for task in _TASKS}
DEFAULT_TASK = TextClassification.info


def get_task(name: str) -> Task:
    """Return the task of that name; the spec admits no other names."""
    return TASKS[name]


def task_info(name: str) -> TaskInfo:
    """Return the `TaskInfo` of the task of that name; the spec admits no other names."""
    return TASKS[name].info
