"""Read and change what a model's blocks put out, in each step of a call of `generate`."""
