"""What happened to GPUs: XID events."""
