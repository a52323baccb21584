"""What the exporter costs, beside another one on the same stand-in for NVIDIA's library; ``make bench`` runs it."""
