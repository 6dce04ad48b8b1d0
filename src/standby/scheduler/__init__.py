"""What happens next to a batch: taken in, planned, leased, run, committed, sealed, swept."""
