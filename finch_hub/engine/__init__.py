"""The engine: everything that computes. It knows no database and no queue, and works in a notebook.

Modules are imported by their full names; importing this package alone loads none of them.
"""
