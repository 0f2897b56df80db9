"""The files that take minutes go first: two workers that take a file at a time end together."""

LONG = ["slurm", "training_sharded", "smoke_study", "openi", "paper_try", "study", "training_launch"]
LONG = [f"test_{name}.py" for name in LONG]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
