"""From readings to snapshots: when GPUs are read, who is who, what adds up."""
