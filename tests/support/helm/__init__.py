"""The Helm chart, rendered by the real Helm engine: its values, its objects, and what they are made of."""
