"""What a run reads: photographs, subjects, where they lie on this machine, and the cache of computed tensors."""
