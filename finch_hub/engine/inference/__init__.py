"""Inference: generation, routing of rows to adapters, evaluation."""
