"""What any package may use: text as users write it, file locks, package versions, import paths, this process."""
