"""Whether weights that were trained elsewhere fit a run, tried before it is filed: how a run ends is final."""

from __future__ import annotations

from trainables.config.messages import shorten
from trainables.data.path_map import set_path_map
from trainables.errors import UserError
from trainables.methods.foreign import METHOD
from trainables.run.prompt_checks import find_cut_prompts_of_run
from trainables.run.resident import Resident
from trainables.run_config import RunConfig
from trainables.training.trainer import choose_device


def find_misfits(config: RunConfig, resident: Resident) -> list[str]:
    """Returns why a file cannot be judged by a run's base model and prompts, one message a problem; writes nothing.

    Args:
        config: Of a run of the method ``foreign``.
        resident: Where the base model is loaded, which the run then finds there.

    Raises:
        UserError: The base model cannot be had.
    """
    set_path_map(config.path_map)
    prompt = getattr(config.training, "prompt", None)
    begin = "" if prompt is None else f"{shorten(prompt)} in the place of the study's words for the subject: "
    problems = [f"{begin}{problem}" for problem in find_cut_prompts_of_run(config).problems]
    backbone = resident.backbone(config.model, choose_device(config.device))
    sound = True
    try:
        METHOD.install(backbone, config.training)
    except UserError as error:
        problems += error.problems
    except Exception:  # memory, or a fault of this program: the run meets it too, and records it
        sound = False
    finally:
        resident.take_back(backbone, lambda: METHOD.detach(backbone), sound=sound)
    return problems
