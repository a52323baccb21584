"""The HTTP server and who may use it. Knows nothing of GPUs."""
