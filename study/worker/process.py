"""What a worker process sets before it imports torch."""

from __future__ import annotations

import os
import sys

from study.worker.order import Order
from trainables.util.process import ensure_home, print_everything


def prepare_process(order: Order) -> None:
    """Sets what must be set before torch is loaded: visible devices and threads.

    Ray no longer hides GPUs from actors that asked for none. Where every core has its own run, threads that
    spin while they wait make everything twenty times slower.
    """
    print_everything()
    ensure_home()  # a joined cluster's node may have none
    os.environ.update(process_settings(order))
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def process_settings(order: Order) -> dict[str, str]:
    """Returns the environment variables of a process that trains; what the machine's owner has set stays."""
    threads = str(max(1, int(order.cpus)))
    settings = {} if order.gpus else {"CUDA_VISIBLE_DEVICES": ""}
    settings |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    settings |= {"OMP_WAIT_POLICY": "passive", "PYTHONIOENCODING": "utf-8:backslashreplace"}
    defaults = {"KMP_BLOCKTIME": "0", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return settings | {name: os.environ.get(name, value) for name, value in defaults.items()}
