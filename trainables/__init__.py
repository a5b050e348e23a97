"""How one run trains: the training core, the methods, the evaluation and the embedded model.

Importing this package loads no torch: what needs it is imported where it is used, so that a study file can be
validated in a fraction of a second.
"""

import sys

if sys.argv[:1] == ["-m"]:  # Python looks for a command of this package, and has put the working folder first
    from trainables.util.import_paths import forget_working_folder

    forget_working_folder()
