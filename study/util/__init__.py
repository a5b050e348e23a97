"""JSON files, redaction, units, printing, network: what any package may use."""
