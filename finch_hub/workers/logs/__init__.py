"""Logs of all processes of the hub: one line of fields for each record."""
