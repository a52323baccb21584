"""The whole pipeline on one machine, with nothing real about the GPUs and nothing simulated about the rest."""
