"""Captions against references: CIDEr, BLEU, ROUGE-L."""
