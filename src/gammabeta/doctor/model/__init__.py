"""What is known of a model from its modules, its buffers and its source code, before it runs."""
