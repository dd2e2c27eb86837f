"""Training data: reading, formats, chat templates, tokens, batches."""
