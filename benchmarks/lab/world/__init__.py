"""A small world with exact ground truth: what is in it, how it is drawn and spoken of."""
