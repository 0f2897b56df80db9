"A study planned in the test's own process: the plan that Snakemake's command line makes, without a second's imports for each."

import contextlib
import io
import os
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import snakemake.cli

import unirg.study
from unirg.core import Settings, StudyError

ROOT = Path(__file__).parents[1]


def in_this_process(args, env, **ignored):
    "As `subprocess.run` of Snakemake's command line."
    out, err, code, here = io.StringIO(), io.StringIO(), 0, os.getcwd()
    with mock.patch.dict(os.environ, env, clear=True), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            snakemake.cli.main(args[3:])
        except SystemExit as end:
            code = end.code or 0
        finally:
            os.chdir(here)
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def plan_of(
    settings: Settings,  # of the repository: planned in a folder like it, for tests side by side would write to the same orders
    raises: bool = True,  # where something is wrong; else it is in `wrong`
) -> unirg.study.Study:  # with its tasks
    "A planned study."
    folder = tempfile.TemporaryDirectory(prefix="planned-")
    if settings.root == ROOT:
        for name in ("nbs", "settings.ini"):
            (Path(folder.name) / name).symlink_to(ROOT / name)
        settings = Settings(settings.profile, settings.overrides, root=folder.name)
    study = unirg.study.Study(settings)
    study.folder = folder  # kept as long as the study is
    with mock.patch.object(unirg.study, "subprocess", mock.Mock(run=in_this_process)):
        study.plan()
    if raises and study.wrong:
        raise StudyError("\n".join(study.wrong))
    return study
