"""What a test turns while the simulator runs: its clock, what it says, how it fails."""
