"""A trainer that waits after a checkpoint until it may go on, so that a test meets it there however fast the machine is.

Run as a module in a trainer's place, with its kind as first argument: PAUSED_AT is the step; `go` in its work folder lets it on.
"""

import os
import sys
import time
from importlib import import_module
from pathlib import Path

from unirg.training import trainers


def on_save(self, args, state, control, **kwargs):
    "Marks checkpoints as the trainer does, and waits after one of them."
    MARK(self, args, state, control, **kwargs)
    while state.global_step == int(os.environ["PAUSED_AT"]) and not (Path(args.output_dir).parent / "go").exists():
        time.sleep(0.01)


if __name__ == "__main__":
    MARK, trainers.CheckpointCompletion.on_save = trainers.CheckpointCompletion.on_save, on_save
    trainers.worker(import_module(f"unirg.training.{sys.argv.pop(1)}").main)
