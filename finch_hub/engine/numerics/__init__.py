"""Numerics that several parts share: stacked linear algebra, work on several threads."""
