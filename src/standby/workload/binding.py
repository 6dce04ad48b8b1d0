"""A job belongs to one workspace: its batches are known there only.

Every answer of the service names its organization and its workspace (contract 1.2). The first one is written down; an
answer from elsewhere ends the command before anything is sent or believed. That a batch is not known says nothing
unless it is said by the workspace that made it: with another key every batch would seem to be gone.
"""

from __future__ import annotations

from collections.abc import Mapping

from standby.workload.faults import LocalState
from standby.workload.jobfile import JobFile
from standby.workload.states import PartState

KINDS = {"organization": "anthropic-organization-id", "workspace": "anthropic-workspace-id"}
"""What a job remembers, and the header that tells it."""


class Binding:
    """Holds the answers of a service against what a job knows of its workspace."""

    def __init__(self, job: JobFile) -> None:
        """Take an open job; it is bound by the first answer unless it is already."""
        self._job = job
        self._known = {kind: job.meta(kind, "") for kind in KINDS}
        self._is_new = all(part.state is PartState.READY and not part.batch_id for part in job.parts())
        self._is_given_up = bool(job.meta("gone", ""))

    def heed(self, headers: Mapping[str, str], *, is_proof: bool = False) -> None:
        """Look who answers; `is_proof` says that the answer is about a batch of this job.

        `LocalState` if it is not who made the job's batches.
        """
        for kind, header in KINDS.items():
            heard, known = headers.get(header, ""), self._known[kind]
            if heard and known and heard != known:
                raise LocalState(
                    f"{self._job.folder}: the job belongs to {kind} {known}, and this key to {heard}; go on with a key "
                    f"of that {kind}. Its batches run on, and are not known here"
                )
            if heard and not known and (is_proof or self._is_new):
                self._known[kind] = heard
                self._job.note(**{kind: heard})

    def check_unknown(self, batch_id: str, headers: Mapping[str, str]) -> None:
        """Believe that a batch is gone only if its own workspace says so; `LocalState` if that is not sure."""
        known = self._known["workspace"]
        if self._is_given_up or (known and headers.get(KINDS["workspace"], "") == known):
            return
        raise LocalState(
            f"{self._job.folder}: the service does not know {batch_id}. Was it made with a key of another workspace? "
            "Then go on with that one. If it was deleted: standby collect --gone"
        )
