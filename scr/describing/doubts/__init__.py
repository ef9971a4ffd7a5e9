"""Which words of a text may be made up: its content words, one measure a file, and what a calibration makes of them."""
