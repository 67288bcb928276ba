"""The same operations as commands: `aura --help`."""
