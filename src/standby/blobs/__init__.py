"""Big bytes: the items, plan and segments of a batch, one folder a batch."""
