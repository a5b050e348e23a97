"""One file per fine-tuning method; see ``protocol.py`` for what a method is."""
