"""What people and tools see of a running Aura: the composition on one port, and its HTTP API."""
