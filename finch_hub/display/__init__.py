"""Values drawn for people: tables, progress and reports, with rich imported only when something is drawn."""
