"""Texts as others may see them: without secrets, and without what steers a terminal or misleads a reader."""
