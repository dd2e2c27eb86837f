"""How many directions each module of an adapter needs: given, divided by the data, or found out."""

from finch_hub.engine.rank.automatic import begin, check_data, shrink

__all__ = ["begin", "check_data", "shrink"]
