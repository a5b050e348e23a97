"""How a run is judged: fixed prompts, noise of the subject and the seed, held-out references, and the base model's
images of the class where the scales begin.

``prepare_evaluation`` (in ``evaluator.py``) is called once a run, before anything is attached to the model:
it draws and caches what the base model makes of the prompts. ``evaluate`` may then be called at any step.
``metrics.py``, ``anchors.py`` and ``quality.py`` are pure and load no torch; importing this package loads nothing.
"""
