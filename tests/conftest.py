"Which tests begin: of two workers that take file after file, one stands idle at the end if the long files come last."
# by minutes, as `--durations` tells them; the others follow in the order of their names (make test asks for it: --no-loadscope-reorder)
LONG = (
    "test_notebooks",
    "test_slurm",
    "test_training_sharded",
    "test_study",
    "test_smoke_study",
    "test_training_launch",
    "test_paper_try",
    "test_openi",
    "test_references",
    "test_docs",
    "test_examples",
)


def pytest_collection_modifyitems(items):
    place = {name: n for n, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))
