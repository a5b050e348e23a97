"""Names, keys and records of a storage folder: the only place that spells a file name."""
