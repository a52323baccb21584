"""An hour in which ten things break on 24 simulated GPUs, and what the mailbox says of it."""
