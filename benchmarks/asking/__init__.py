"""One batch of questions: how they are put to a model, and what is measured meanwhile."""
