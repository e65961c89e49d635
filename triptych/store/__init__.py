"""What a run leaves on the disk: folder, records, checkpoints, lock."""
