"""The parts of adopting somebody else's norms: proof, recipe, settings and class."""
