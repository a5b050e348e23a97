"""The training core: batches, objective, optimizer, loop, checkpoints, cost."""
