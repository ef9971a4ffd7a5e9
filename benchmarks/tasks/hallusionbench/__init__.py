"""HallusionBench: figures, and questions that mislead."""
