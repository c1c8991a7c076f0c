"""Files that are whole or absent: atomic writes, locks, checkpoints, remote sets, identities."""
