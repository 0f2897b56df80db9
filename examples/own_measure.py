"""A measure of your own, and a policy trained with it: `python examples/own_measure.py`. About a minute on two cores.

A measure is a function of (prediction, reference). Its import path is its name: in settings.ini the same reward reads
`reward = fact_f1=1 own_measure.names_the_side=0.5`, with this file's folder on PYTHONPATH.
"""

import argparse
import csv
import os
import tempfile
from pathlib import Path

from unirg.data import iu_xray
from unirg.data.reports import target_text
from unirg.phantom.archives import write_archive
from unirg.reward.composite import Composite
from unirg.reward.findings import facts
from unirg.training.launch import launch
from unirg.training.policy import build_tiny_policy

REWARD = "fact_f1=1 own_measure.names_the_side=0.5"


def names_the_side(
    prediction: str,  # a report
    reference: str,  # the report it is compared with
) -> float:  # 0..1
    "Share of the findings for which the reference names a side that the prediction puts on the same side."
    ours, theirs = ({(fact.finding, fact.side) for fact in facts(text) if fact.side} for text in (prediction, reference))
    return len(ours & theirs) / len(theirs) if theirs else 1.0


def train(folder: Path, sft_steps: int, rl_steps: int) -> list[dict]:
    "SFT, then GRPO with the measure; the log of GRPO, a row a step."
    write_archive("iu_xray", folder / "archive", studies=80, seed=1)  # your own archive instead: see nbs/data
    studies = iu_xray.read(folder / "archive" / "iu_xray")
    studies.save(folder / "iu_xray")
    texts = [target_text(study, "findings") for study in studies.table.remove_columns("image")]
    build_tiny_policy([text for text in texts if text], folder / "tiny")  # any Hugging Face vision-language model instead

    job = {"tables": [str(folder / "iu_xray")], "target_sections": "findings", "evaluate_studies": 0}
    sft = {"max_steps": str(sft_steps), "warmup_steps": "5", "learning_rate": "2e-3"}  # TRL's options, by their names there
    launch(job | {"kind": "sft", "start": str(folder / "tiny"), "out": str(folder / "sft"), "trl": sft})
    grpo = {"max_steps": str(rl_steps), "warmup_steps": "1", "logging_steps": "1", "learning_rate": "2e-4", "max_completion_length": "96"}
    own = {"kind": "grpo", "batch": 8, "reward": REWARD}  # studies a step
    launch(job | own | {"start": str(folder / "sft"), "out": str(folder / "rl"), "trl": grpo})
    with (folder / "rl" / "log.csv").open() as file:
        return list(csv.DictReader(file))


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sft-steps", type=int, default=100)
    options.add_argument("--rl-steps", type=int, default=10)
    options = options.parse_args()
    here = str(Path(__file__).resolve().parent)  # so that trainers and reward workers find this file
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])

    reward, said = Composite(weights=REWARD), "Small left pleural effusion. The heart is normal."
    for text in (said, said.replace("left", "right"), "Pleural effusion."):
        print(f"{reward([text], [said])[0]:.3f}  {text}")
    with tempfile.TemporaryDirectory() as folder:
        for row in train(Path(folder), options.sft_steps, options.rl_steps):
            if row["reward"]:
                print(f"step {row['step']}: reward {float(row['reward']):.3f}, side {float(row['reward/own_measure.names_the_side']):.3f}")


if __name__ == "__main__":
    main()
