"""What survives a crash: batches, runs, the manifest of segments, keys and workspaces."""
