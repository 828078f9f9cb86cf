"""Training: data, the pair of arms, presets."""
