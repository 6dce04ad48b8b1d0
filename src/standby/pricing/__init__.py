"""What it cost: pure arithmetic over a dated price book, in integer pico-dollars (design 6)."""
