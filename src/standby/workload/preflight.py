"""A look at the service before anything is sent: does it have the models that are asked for, and can they do it?

Only what the service says of a model is held against a job (contract 5); what it does not say is no reason to stop.
What would fail for every row stops the job, what would fail for some is told: such rows come back as errors, unpaid.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from standby.workload.claudes import takes_sampling
from standby.workload.faults import BadInput, Refused, WorkloadError
from standby.workload.service import Service
from standby.workload.survey import SAMPLING, Asked, Survey

NO_SAMPLING = "2026-10-21"
"""From this API version on sampling parameters are refused, even at their defaults (contract 3.1)."""
LONG_OUTPUT = "output-300k-2026-03-24"
"""A beta that lifts the limit of `max_tokens` in batches (contract 3.3)."""
LONG_OUTPUT_TOKENS = 300_000
ASKED_ABOUT = 8
"""Models that the service is asked about, the most used first."""
AT_ONCE = 4
NEAR = 3
CAPABILITIES = {"schema": "structured_outputs", "image": "image_input", "pdf": "pdf_input"}
NAMES = {"schema": "structured outputs (--schema)", "image": "images", "pdf": "PDFs"}
NOT_IN_BATCHES = {"stream": "`stream: true`", "fast": "`speed: fast`"}
Info = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """What is wrong with some requests."""

    text: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What the service said, and what is to be told."""

    models: Mapping[str, Info]
    """Of the models that it knows and tells of, by the name that was asked for."""
    warnings: tuple[str, ...] = ()
    is_reached: bool = True


def preflight(survey: Survey, service: Service) -> Looked:
    """Ask the service about the models of a job; `BadInput` if no row of it could succeed.

    A service that cannot be asked is no reason to stop: that is told, and the job goes on.
    """
    asked = sorted(survey.models.values(), key=lambda one: -len(one.sizes))
    try:
        infos = _infos(service, [one.model for one in asked[:ASKED_ABOUT] if one.model])
        names = service.models() if None in infos.values() else []
    except WorkloadError as error:
        told = (f"the models were not checked before: {error}", *_told(survey, {}, service))
        return Looked(models={}, warnings=told, is_reached=False)
    unknown = {name: _is_refused(service, name) for name, info in infos.items() if info is None and names}
    known = {name: info for name, info in infos.items() if info is not None}
    flaws = [_unknown(survey.models[name], names, service) for name, is_refused in unknown.items() if is_refused]
    unlisted = [
        f"{name!r} is not among the models that {service.endpoint} lists" for name, no in unknown.items() if not no
    ]
    warnings = [*unlisted, *_told(survey, known, service, flaws)]
    if len(asked) > ASKED_ABOUT:
        warnings.append(f"{len(asked) - ASKED_ABOUT:,} more models were not checked before")
    return Looked(models=known, warnings=tuple(warnings))


def check_lengths(looked: Looked, longest: Mapping[str, int]) -> tuple[str, ...]:
    """Warn of prompts that no context holds; `longest` has the tokens of the longest one by model, as estimated."""
    found = []
    for model, tokens in longest.items():
        most = looked.models.get(model, {}).get("max_input_tokens")
        if isinstance(most, int) and tokens > most:
            found.append(
                f"the longest prompt has about {tokens:,} tokens and {model} takes {most:,}: rows above that come back "
                "as errors"
            )
    return tuple(found)


def flaws_of(asked: Asked, info: Info, *, version: str, betas: str) -> Iterator[Flaw]:
    """Hold what requests ask for against what a model can do. Pure; `info` may be empty."""
    model, rows = asked.model, len(asked.sizes)
    if not model:
        yield Flaw(text="the requests name no model", rows=rows)
    capabilities = info.get("capabilities") or {}
    if info.get("lifecycle") == "retired":
        yield Flaw(text=f"{model} is retired{_since(info)}", rows=rows)
    if _cannot(capabilities, "batch"):
        yield Flaw(text=f"{model} does not take batches", rows=rows)
    for name, capability in CAPABILITIES.items():
        if asked.uses[name] and _cannot(capabilities, capability):
            yield Flaw(text=f"{model} does not take {NAMES[name]}", rows=asked.uses[name])
    yield from _answers(asked, info, betas)
    yield from _parameters(asked, version)
    types = (capabilities.get("thinking") or {}).get("types") or {}
    for name, support in types.items():
        if asked.uses[f"thinking:{name}"] and _is_no(support):
            yield Flaw(text=f"{model} does not take thinking of type {name!r}", rows=asked.uses[f"thinking:{name}"])


def _answers(asked: Asked, info: Info, betas: str) -> Iterator[Flaw]:
    most = info.get("max_tokens")
    if isinstance(most, int) and LONG_OUTPUT in betas:
        most = max(most, LONG_OUTPUT_TOKENS)
    if isinstance(most, int) and asked.longest_answer > most:
        too_long = sum(count for tokens, count in asked.answers.items() if tokens > most)
        text = f"max_tokens: {asked.longest_answer:,} is more than {most:,}, the most that {asked.model} writes"
        yield Flaw(text=text, rows=too_long)


def _parameters(asked: Asked, version: str) -> Iterator[Flaw]:
    for name in SAMPLING:
        if not asked.uses[name]:
            continue
        if version >= NO_SAMPLING:
            yield Flaw(text=f"{name}: is refused under API version {version}; leave it out", rows=asked.uses[name])
        elif takes_sampling(asked.model) is False:
            yield Flaw(text=f"{name}: is refused by {asked.model} but at its default", rows=asked.uses[name])
    for name, shown in NOT_IN_BATCHES.items():
        if asked.uses[name]:
            yield Flaw(text=f"{shown} is not taken in batches", rows=asked.uses[name])


def _infos(service: Service, models: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(models, pool.map(service.model, models), strict=True))


def _told(survey: Survey, known: Mapping[str, Info], service: Service, more: Sequence[Flaw] = ()) -> Iterator[str]:
    """Stop if a flaw touches every row; else tell what some rows come to, and which models end soon."""
    flaws = list(more)
    for asked in survey.models.values():
        info = known.get(asked.model, {})
        flaws += flaws_of(asked, info, version=service.version, betas=service.betas)
    for flaw in flaws:
        if flaw.rows == survey.rows:
            raise BadInput(f"{flaw.text}; nothing was sent")
        yield f"{flaw.text}: {flaw.rows:,} of {survey.rows:,} rows come back as errors"
    for name, info in known.items():
        if info.get("lifecycle") == "deprecated":
            yield f"{name} is deprecated{_until(info)}"


def _unknown(asked: Asked, names: Sequence[str], service: Service) -> Flaw:
    near = difflib.get_close_matches(asked.model, names, n=NEAR, cutoff=0.5) or list(names)[:NEAR]
    text = f"-m: {service.endpoint} has no model {asked.model!r}; near to it: {', '.join(near)}"
    return Flaw(text=text, rows=len(asked.sizes))


def _is_refused(service: Service, model: str) -> bool:
    """Whether a model that is not listed is not served either: some services answer to more names than they list."""
    try:
        service.count_tokens({"model": model, "messages": [{"role": "user", "content": "x"}]})
    except Refused:
        return True
    except WorkloadError:
        return False
    return False


def _cannot(capabilities: Any, name: str) -> bool:
    return isinstance(capabilities, dict) and _is_no(capabilities.get(name))


def _is_no(support: Any) -> bool:
    return isinstance(support, dict) and support.get("supported") is False


def _since(info: Info) -> str:
    return f" since {str(info['retires_at'])[:10]}" if info.get("retires_at") else ""


def _until(info: Info) -> str:
    return f" and retires on {str(info['retires_at'])[:10]}" if info.get("retires_at") else ""
