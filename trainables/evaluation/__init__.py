"""How a run is judged: fixed prompts, fixed noise, held-out references, and the base model as the zero of
every scale.

``prepare_evaluation`` (in ``evaluator.py``) is called once a run, before anything is attached to the model:
it draws and caches what the base model makes of the prompts. ``evaluate`` may then be called at any step.
``metrics.py`` and ``quality.py`` are pure and load no torch; importing this package loads nothing.
"""
