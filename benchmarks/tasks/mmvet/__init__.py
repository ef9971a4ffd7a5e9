"""MM-Vet: open questions, graded elsewhere."""
