"""HTTP in, thin: decode, call one verb, encode."""
