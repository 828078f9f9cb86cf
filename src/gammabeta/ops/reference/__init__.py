"""The reference backend: the papers' formulas line by line, the oracle of every test."""
