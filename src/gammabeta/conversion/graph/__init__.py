"""The data flow of a model, found from its code."""
