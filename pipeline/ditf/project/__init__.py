"""A project: its paths, entries, plan, freshness, repair and search."""
