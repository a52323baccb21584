"""A random fault soak with a seed: the installed daemon over the stand-in of the driver, held to invariants."""
