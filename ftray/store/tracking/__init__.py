"""Runs in the tracking services that people look at: MLflow always, others where the spec asks."""
