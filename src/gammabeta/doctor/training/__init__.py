"""Watch a training step by step: what each step was, and the rules that look at it."""
