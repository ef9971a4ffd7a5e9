"""A pretrained language model: fetched once, given a vision tower, merged with what was trained on both."""
