"Study notebooks, run cell by cell in the test's own process: quicker than papermill, and an error is the test's."

import os
from pathlib import Path
from unittest import mock

import nbformat

FOLDER = Path(__file__).parents[1] / "nbs" / "study"


def run_notebook(name: str, **parameters):
    "The cells of study notebook `name`, with these parameters in place of its own."
    known = {}
    with mock.patch.dict(os.environ, UNIRG_TASK=name):  # as the engine says, so that it writes where it is told
        for cell in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells:
            if cell.cell_type != "code":
                continue
            exec(cell.source, known)
            if "parameters" in cell.metadata.get("tags", []):
                assert set(parameters) <= set(known), f"not parameters of {name}: {sorted(set(parameters) - set(known))}"
                known |= parameters
