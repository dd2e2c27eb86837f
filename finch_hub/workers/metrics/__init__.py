"""Metrics for Prometheus: what a worker does, and what it sees of its deployment."""
