"""From a command to its records: what is planned, run, and kept."""
