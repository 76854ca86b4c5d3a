"""ftray: one YAML file from a pretrained model to a served endpoint, on Ray."""

__version__ = "0.1.0"
