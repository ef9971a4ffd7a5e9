"""A folder of photos, described: its records, which any number of processes add to, its table, and its page."""
