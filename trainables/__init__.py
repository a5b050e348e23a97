"""How one run trains: the training core, the methods, the evaluation and the embedded model.

Importing this package loads no torch: what needs it is imported where it is used, so that a study file can be
validated in a fraction of a second.
"""
