"""Drawing: progress, tables and reports for people."""
