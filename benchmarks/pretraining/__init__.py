"""How the embedded model was made: one stage of pre-training a module."""
