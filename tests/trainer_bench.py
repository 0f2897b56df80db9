"""One short training with a clock on its parts, for `make bench`: ours, or the same trainer of TRL's in a plain script.

python tests/trainer_bench.py ours|plain sft|grpo JOB.json OUT.json
"""

import functools
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoModelForImageTextToText
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from unirg.core import read_json, write_json
from unirg.reward.composite import composite_from
from unirg.training import grpo, sft
from unirg.training.generation import studies_of
from unirg.training.options import trl_options
from unirg.training.policy import input_resolution, load_processor
from unirg.training.rows import training_rows

PARTS = {"generation": (GRPOTrainer, "_generate"), "reward": (GRPOTrainer, "_calculate_rewards"), "backward": (Accelerator, "backward")}


def now():
    "Seconds by the clock, after what the GPU still had to do."
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def clocked(kind, name, spent):
    "Count the seconds a method takes."
    method = getattr(kind, name)

    @functools.wraps(method)
    def timed(self, *arguments, **named):
        start = now()
        try:
            return method(self, *arguments, **named)
        finally:
            spent[name].append(now() - start)

    setattr(kind, name, timed)


def plain(kind, job):
    "What somebody would write who has read TRL's documentation, on the rows that ours makes."
    options, processor = trl_options(kind, job["trl"], "bench"), load_processor(job["start"])
    model = AutoModelForImageTextToText.from_pretrained(job["start"], dtype=torch.float32)
    rows = training_rows(
        [studies_of(table) for table in job["tables"]], job["target_sections"], input_resolution(processor), seed=job["seed"]
    )
    same = dict(output_dir=f"{job['out']}.plain", seed=job["seed"], save_strategy="no", report_to="none", remove_unused_columns=False)
    same |= dict(use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False, disable_tqdm=True)
    same |= {name: value for name, value in options.items() if name not in same and name != "save_steps"}
    if kind == "sft":
        arguments = SFTConfig(**same | dict(per_device_train_batch_size=job["batch"], max_length=None))
        return SFTTrainer(model, arguments, train_dataset=rows, processing_class=processor)
    arguments = GRPOConfig(**same | dict(per_device_train_batch_size=job["batch"] * options["num_generations"]))
    return GRPOTrainer(model, composite_from(job["reward"]), arguments, train_dataset=rows, processing_class=processor)


def main(who, kind, path, out):
    job, trainer, spent, steps = read_json(path), SFTTrainer if kind == "sft" else GRPOTrainer, defaultdict(list), []
    begun = [time.time(), time.process_time()]  # all is imported
    for owner, name in [*PARTS.values(), (trainer, "compute_loss")]:
        clocked(owner, name, spent)
    step = trainer.training_step

    def marked(self, *arguments, **named):
        if not steps:
            begun.extend([time.time(), time.process_time()])  # the first batch is there
        loss = step(self, *arguments, **named)
        steps.append([now(), time.process_time()])  # up to here from the last: a step, with what stands between two
        return loss

    trainer.training_step = marked
    if who == "plain":
        plain(kind, job).train()
    else:
        {"sft": sft, "grpo": grpo}[kind].main(path)
    parts = {what: spent[name] for what, (_, name) in PARTS.items()} | {"forward": spent["compute_loss"]}
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    write_json(Path(out), {"begun": begun, "steps": steps, "parts": parts, "peak": peak})


if __name__ == "__main__":
    main(*sys.argv[1:])
