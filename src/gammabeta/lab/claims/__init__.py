"""Claims of the batch-normalization papers, each measured by one file; see `registry`."""
