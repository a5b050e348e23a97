"""Injects faults into small real studies and prints what became of them: ``python -m benchmarks.faults --help``.

What it does it lies with the tests, which run a part of it (``tests/faults/harness/``).
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("tests.faults.harness", run_name="__main__", alter_sys=True)
