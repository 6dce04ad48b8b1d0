"""What a shell offers where a file, a model or a job is to be named."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
from click.shell_completion import CompletionItem


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leave it to the shell to complete a file."""
    del ctx, param
    return [CompletionItem(incomplete, type="file")]


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer Claude's models that can be asked today, and what earlier jobs asked."""
    del ctx, param
    return sorted(name for name in {*_published(), *_asked()} if name.startswith(incomplete))


def jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the outputs of jobs, as short as they can be written here; and files."""
    del ctx, param
    from standby.workload import register

    names = [name_of(folder) for folder in register.remembered()]
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def name_of(folder: Path) -> str:
    """Say how a user names a job: its output, relative if it lies below, or the name of its table."""
    from standby.workload import register
    from standby.workload.jobfile import SUFFIX

    output = folder.with_name(folder.name.removesuffix(SUFFIX))
    if output.parent == register.jobs_folder().parent:
        return output.name
    here = Path.cwd()
    return str(output.relative_to(here)) if output.is_relative_to(here) else str(output)


def _published() -> Iterator[str]:
    from standby.pricing.claude import Published, claude_price

    today = datetime.now(UTC).date()
    yield from (name for name in Published().models() if claude_price(name, today) is not None)


def _asked() -> Iterator[str]:
    from standby.workload import register
    from standby.workload.faults import LocalState
    from standby.workload.jobfile import looked_at

    for folder in register.remembered():
        try:
            with looked_at(folder) as job:
                if job.meta("spec", "") and job.spec.model:
                    yield job.spec.model
        except LocalState:
            continue
