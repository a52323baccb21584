"""What tests, bench and demo share: stand-ins, programs, ports, waiting."""
