"""Where the jobs of this user are: one short file a job in the state folder, so that `standby list` finds them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from standby.workload.jobfile import folder_of


def jobs_folder() -> Path:
    """Name the folder of the register."""
    return Path(platformdirs.user_state_path("standby")) / "jobs"


def place_of(output: str) -> Path:
    """Name the folder of a job by its output: beside a file; that of a table lies in the state folder."""
    beside = folder_of(output)
    table = table_place(output)
    is_table = not beside.exists() and "/" not in output and table.exists()
    return table if is_table else beside


def table_place(output: str) -> Path:
    """Name the folder of a new job that writes a table."""
    return jobs_folder().parent / f"{output}.standby"


def remember(job: Path) -> None:
    """Put a job on the list. A list that cannot be written keeps no job from running."""
    place = jobs_folder()
    name = hashlib.blake2b(str(job).encode(), digest_size=8).hexdigest()
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        (place / name).write_text(f"{job}\n", encoding="utf-8")
    except OSError:
        return


def remembered() -> Iterator[Path]:
    """Walk over the jobs that are still there, the newest first."""
    place = jobs_folder()
    entries = sorted(place.glob("*"), key=lambda entry: entry.stat().st_mtime, reverse=True) if place.is_dir() else []
    for entry in entries:
        job = Path(entry.read_text(encoding="utf-8").strip())
        if (job / "job.sqlite").exists():
            yield job
        else:
            entry.unlink(missing_ok=True)
