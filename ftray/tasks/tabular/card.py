"""Code for the model card of a table's model."""

_USAGE = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "PATH OF THIS FOLDER"
model = AutoModelForSequenceClassification.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
# How a row becomes the tokenizer's text, with bins and vocabularies, is under "columns" of
# ftray.json: "age #3" is the fourth bin of a number, "job=nurse" a category, "age?" is missing;
# a model of language reads "age: 35, job: nurse".
text = "\\n".join(["age #3", "job=nurse"])
"""
CLASSIFIES = _USAGE + 'print(model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1))'
PREDICTS = (
    _USAGE
    + """\
# Numbers are standardized: "scale" of ftray.json has their mean and deviation.
print(model(**tokenizer(text, return_tensors="pt")).logits)"""
)
