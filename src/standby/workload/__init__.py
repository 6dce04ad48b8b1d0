"""Workloads: rows and a prompt in, a table of answers out, through the Message Batches API of Claude or of Standby.

The client's side; it imports no room of the server. `steps` has the functions, `docs/workloads.md` the story.
"""

from standby.workload.faults import WorkloadError
from standby.workload.gather import AsyncBatches
from standby.workload.jobfile import folder_of, opened
from standby.workload.replies import Canceled, Closed, Expired, Missing, NotAnswered, NotBatched
from standby.workload.report import report_of
from standby.workload.runner import Pace, Runner, View
from standby.workload.runs import Asked, aanswered, answered, arun, run
from standby.workload.service import Service, connected
from standby.workload.spec import Source, Spec
from standby.workload.steps import (
    bind_budget,
    cancel_job,
    estimate_job,
    opened_job,
    prepare_job,
    run_job,
    submit_job,
    unproven_of,
    write_job,
)

__all__ = [
    "Asked",
    "AsyncBatches",
    "Canceled",
    "Closed",
    "Expired",
    "Missing",
    "NotAnswered",
    "NotBatched",
    "Pace",
    "Runner",
    "Service",
    "Source",
    "Spec",
    "View",
    "WorkloadError",
    "aanswered",
    "answered",
    "arun",
    "bind_budget",
    "cancel_job",
    "connected",
    "estimate_job",
    "folder_of",
    "opened",
    "opened_job",
    "prepare_job",
    "report_of",
    "run",
    "run_job",
    "submit_job",
    "unproven_of",
    "write_job",
]
