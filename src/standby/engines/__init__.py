"""Who generates: one contract, several kinds of engine."""
