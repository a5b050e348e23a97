"""What the table of metrics says in words is what the modules do that measure."""

from __future__ import annotations

from trainables.evaluation.copies import SAME_WHOLE
from trainables.evaluation.metrics_table import METRICS
from trainables.evaluation.quality import FAILED_PROMPT, FAILED_SUBJECT


def test_thresholds_in_words_are_those_of_the_code() -> None:
    failed, copied = METRICS["failed_images"].explained, METRICS["memorisation"].explained
    assert f"subject fidelity is below {FAILED_SUBJECT:g}" in failed
    assert f"prompt fidelity below {FAILED_PROMPT:g}." in failed
    assert f"correlate with it at {SAME_WHOLE:g} or more" in copied
