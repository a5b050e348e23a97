"""JSON files, redaction, units, printing, network: what any room may use."""
