"""The terminal: all machines live, or as text; and which GPUs are free."""
