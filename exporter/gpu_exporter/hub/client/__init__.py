"""One client for whoever shows machines without being the hub: the terminal and the window."""
