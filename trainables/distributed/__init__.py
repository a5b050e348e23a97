"""Several processes that train one run: their communication, and FSDP."""
