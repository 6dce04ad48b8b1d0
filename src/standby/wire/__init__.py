"""The public contract as bytes: nothing here knows a store, an engine or a clock."""
