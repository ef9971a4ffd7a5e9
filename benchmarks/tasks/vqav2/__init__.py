"""VQAv2: short answers against those of ten people."""
