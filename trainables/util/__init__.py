"""What any package may use: text as users write it, files, locks, package versions, import paths, this
process, checkpoints, counted operations."""
