"""make dist: everything that a release is made of."""
