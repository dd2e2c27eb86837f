"""Charts: one declarative specification of each, for notebooks, report files and pages."""
