"""Model cards: what goes into them, and their text."""
