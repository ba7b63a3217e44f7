"""Facts about the machine and the checkout that a study's records keep."""

import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from data_prep.common.cores import cores_of_process

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ":!tools/studies/results"  # excluded: a study writes there itself


@dataclass(frozen=True)
class Machine:
    """text: processor, cores, system. commit: of the checkout, with -dirty where it has changes."""

    text: str
    commit: str

    @classmethod
    def this(cls):
        cores = cores_of_process()
        return cls(f"{_processor()}, {cores} cores, {platform.system()}", _commit())


def _processor():
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _commit():
    """Of git; "unknown" outside a checkout or without git."""
    name = _git("describe", "--always", "--abbrev=12")
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", RESULTS)
    return f"{name}-dirty" if name and changes else name or "unknown"


def _git(*words):
    """What git prints about this checkout, "" where there is none."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()
