"""Records, read: runs, pairs of runs, rows of questions, traces."""
