"""Supervision of jobs: claims, leases, child processes and how they end."""
