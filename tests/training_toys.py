"A small made-up world for the tests of the training subpackage: bright squares are findings, and reports are short."

import io
import random
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from PIL import Image

from unirg.core import read_json, write_json
from unirg.data.studies import FEATURES, Studies

SAID = {"effusion": "There is a left pleural effusion.", "cardiomegaly": "The heart is enlarged."}
UNSAID = {"effusion": "No pleural effusion.", "cardiomegaly": "The heart is normal in size."}
PLACE = {"effusion": (slice(72, 120), slice(16, 56)), "cardiomegaly": (slice(56, 104), slice(72, 112))}


def toy_table(studies: int, seed: int = 0, source: str = "toy") -> datasets.Dataset:
    "Studies in the project's schema, two visits a patient, 60/20/20 by study."
    draw, rows = random.Random(seed), []
    for number in range(studies):
        film, sick = np.full((128, 128), 50, np.uint8), {name: draw.random() < 0.5 for name in SAID}
        for name in SAID:
            film[PLACE[name]] = 230 if sick[name] else 60
        file = io.BytesIO()
        Image.fromarray(film).save(file, "JPEG", quality=95)
        row = dict.fromkeys(FEATURES)
        row |= {"source": source, "patient_id": f"p{number // 2}", "study_id": f"s{number}", "study_order": number % 2, "view": "PA"}
        row |= {"split": ("train", "train", "train", "validation", "test")[number % 5], "image": {"bytes": file.getvalue(), "path": None}}
        row |= {"indication": draw.choice(["Cough.", "Chest pain."]), "impression": "Abnormal." if any(sick.values()) else "Normal."}
        row |= {"findings": " ".join((SAID if sick[name] else UNSAID)[name] for name in SAID), "image_path": f"{number}.jpg", "flags": ""}
        row |= {"prior_study_id": f"s{number - 1}" if number % 2 else None}
        rows.append(row)
    return datasets.Dataset.from_list(rows, features=FEATURES)


def toy_studies(folder, studies: int = 60, source: str = "toy"):
    "The table saved as a prepared source."
    table = toy_table(studies, source=source)
    return Studies(table, {}, {"source": source, "seen": studies, "rows": studies, "quarantined": 0}).save(folder)


def toy_texts() -> list[str]:
    "What the toy tokenizer is learned from."
    return [*SAID.values(), *UNSAID.values(), "Findings: Impression: Normal. Abnormal. Indication: Cough. Chest pain."] * 5


def many_studies(folder, studies, films=50):
    "A prepared source of any size with few distinct films, two studies a patient, all to learn from; written in blocks."
    few = toy_table(films).map(lambda study: {"split": "train", "findings": " ".join([study["findings"]] * 8)})  # as long as real ones
    Studies(few, {}, {"source": "toy", "seen": studies, "rows": studies, "quarantined": 0}).save(folder)
    state, base = read_json(Path(folder, "state.json")), few.data.table.combine_chunks()
    with pa.OSFile(str(Path(folder, state["_data_files"][0]["filename"])), "wb") as file, pa.ipc.new_stream(file, base.schema) as writer:
        for start in range(0, studies, 1000):
            numbers = range(start, min(start + 1000, studies))
            ids = {"study_id": [f"s{number}" for number in numbers], "patient_id": [f"p{number // 2}" for number in numbers]}
            ids |= {"prior_study_id": [f"s{number - 1}" if number % 2 else None for number in numbers]}
            block = base.take([number % films for number in numbers])
            for name, values in ids.items():
                block = block.set_column(base.schema.get_field_index(name), base.schema.field(name), pa.array(values, pa.string()))
            writer.write_table(block)
    write_json(Path(folder, "state.json"), state | {"_fingerprint": f"many{studies}"})
    return Path(folder)
