"""Kinds of jobs: one file for each kind, and what the kinds share."""
