"""The demonstration: two stacks trained side by side, with and without a norm."""
