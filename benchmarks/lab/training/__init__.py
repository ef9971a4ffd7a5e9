"""How the lab's models are trained: recipe, stages, loop, checkpoint."""
