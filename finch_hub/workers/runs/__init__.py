"""Kinds of jobs: a file a kind, with its values and its steps in the supervisor and in the child."""
