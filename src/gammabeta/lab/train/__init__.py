"""The training engine: recipes, checkpoints that resume bit by bit, evaluation."""
