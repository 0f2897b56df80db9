"""A trainer whose processes accelerate takes for GPUs, under gloo, so that FSDP2 and DeepSpeed can be tried on a CPU.

python -m cpu_gpus sft|grpo JOB.json, by torchrun or accelerate. KILLED_AT: the step after whose checkpoint every process dies as by
kill -9. SCRIPTED: reports are sampled as always, and then replaced by words that depend on the step and the place in its batch alone, so
that GRPO is the same whatever the number of processes.
"""

import os
import random
import sys

import torch
import transformers.training_args
from accelerate.state import DistributedType, PartialState
from training_toys import toy_texts

BACKEND, BEGIN = PartialState._prepare_backend, PartialState.__init__
SET, ORDINARY = PartialState.set_device, transformers.TrainingArguments.__post_init__


def in_world():
    "One of several, whose weights are shared out; DDP knows CPUs by itself."
    return "LOCAL_RANK" in os.environ and bool({"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & set(os.environ))


def prepare_backend(self, cpu=False, sagemaker_dp=False, backend=None):
    return ("gloo", DistributedType.MULTI_GPU) if in_world() else BACKEND(self, cpu, sagemaker_dp, backend)


def begin(self, cpu=False, **options):
    BEGIN(self, False if in_world() else cpu, **options)


def set_device(self):
    if in_world():
        self.device = torch.device("cpu")
    else:
        SET(self)


def arguments(self):
    self.use_cpu = not in_world()
    ORDINARY(self)


def scripted(trainer):
    "Sampling whose outcome is known."
    sample = trainer._generate_single_turn

    def single_turn(self, prompt_ids, *more, **named):
        tokens, logprobs = sample(self, prompt_ids, *more, **named)
        first, ends = self.accelerator.process_index * len(prompt_ids), self._tokenizer.eos_token_id
        words = self._tokenizer(" ".join(toy_texts()[:5]))["input_ids"]
        for row in range(len(prompt_ids)):
            dice = random.Random(repr((self.state.global_step, first + row)))
            start = dice.randrange(len(words) - 8)
            tokens[row] = words[start : start + dice.randrange(3, 8)] + [ends]
        return tokens, logprobs

    trainer._generate_single_turn = single_turn


def main():
    PartialState._prepare_backend, PartialState.__init__, PartialState.set_device = prepare_backend, begin, set_device
    transformers.TrainingArguments.__post_init__ = arguments
    from unirg.training import grpo, sft, trainers

    kind = sys.argv.pop(1)
    if os.environ.get("SCRIPTED"):
        scripted(grpo.GrpoTrainer)
    mark, step = trainers.CheckpointCompletion.on_save, int(os.environ.get("KILLED_AT", "0"))

    def on_save(self, args, state, control, **kwargs):
        mark(self, args, state, control, **kwargs)
        if state.global_step == step:
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            os._exit(9)

    trainers.CheckpointCompletion.on_save = on_save
    trainers.worker({"sft": sft, "grpo": grpo}[kind].main)


if __name__ == "__main__":
    main()
