"""A trainer that waits after a checkpoint until it may go on, so that a test meets it there however fast the machine is.

Run as a module in a trainer's place: PAUSED_TRAINER names the trainer's module, PAUSED_AT the step; `go` in its work folder lets it on.
"""

import os
import time
from importlib import import_module
from pathlib import Path

from unirg.training.sft import WholeCheckpoints, worker


class Pause(WholeCheckpoints):
    "Marks checkpoints as the trainer does, and waits after one of them."

    def on_save(self, args, state, control, **kwargs):
        super().on_save(args, state, control, **kwargs)
        while state.global_step == int(os.environ["PAUSED_AT"]) and not (Path(args.output_dir).parent / "go").exists():
            time.sleep(0.01)


if __name__ == "__main__":
    trainer = import_module(os.environ["PAUSED_TRAINER"])
    trainer.WholeCheckpoints = Pause
    worker(trainer.main)
