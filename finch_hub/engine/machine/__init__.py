"""Processor and limits of the machine or container that this process runs in, found without torch."""
