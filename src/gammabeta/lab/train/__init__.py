"""Training: recipes, a resumable loop with checkpoints, and evaluation."""
