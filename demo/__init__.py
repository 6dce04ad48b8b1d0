"""The nightly report: a batch over real rows, a live request in the middle, a table of answers."""
