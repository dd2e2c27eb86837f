"""Artifacts: the store that keeps them, and the gate that checks what comes in."""
