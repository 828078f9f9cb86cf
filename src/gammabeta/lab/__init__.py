"""The laboratory: the paper's networks and claims, trained and measured with the library."""
