"""What is served: metrics, documents, pages. Knows nothing of sockets."""
