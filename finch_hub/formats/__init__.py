"""File formats, read and written without torch."""
