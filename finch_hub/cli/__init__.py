"""The command line: one file for each noun, and what the commands share."""
