"""Pure mathematics: hashing, quantiles and e-processes. No I/O, no clock, no randomness."""
