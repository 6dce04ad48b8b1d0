"""What there is to find out about an endpoint, for people and for scripts: `standby engines probe`."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import fields, replace

import msgspec

from standby.config import EngineSettings
from standby.engines.chat.engine import Chat
from standby.engines.chat.recognise import Known, look
from standby.engines.chat.trials import Trials
from standby.engines.findings import Finding, Findings
from standby.errors import EngineError, StandbyError
from standby.records import Rules
from standby.wire.messages import CountParams, decode_count_params

COUNTED = "Count the tokens of this sentence."


async def probe(settings: EngineSettings, *, model: str = "", deep: bool = True) -> Findings:
    """Find out about the endpoint at `settings.kind`; `deep` makes it generate a few short answers of `model`."""
    chat = Chat(settings, base_url=settings.kind)
    try:
        known = await look(chat.connection, settings, given=None, slots=0)
        chat.know(known)
        findings = replace(asked(settings.kind, known), metrics=await _metrics(chat))
        if deep and known.models:
            findings = await _tried(chat, known, replace(findings, model=model or known.models[0].id))
    except EngineError as error:
        return Findings(url=settings.kind, reachable=Finding(value=False, how="tried", note=error.message))
    finally:
        await chat.close()
    return findings


def asked(url: str, known: Known) -> Findings:
    """Say what is known of an engine that was only asked. Pure."""
    dialect, how = known.dialect, known.how
    return Findings(
        url=url,
        reachable=Finding(value=True, how="tried"),
        models=known.models,
        engine=Finding(value=dialect.name, how=how["dialect"]),
        version=Finding(value=known.version or None, how="asked"),
        slots=Finding(value=known.slots, how=how["slots"]),
        cache=Finding(value=known.cache.value, how=how["cache"]),
        priority=Finding(value=known.priority == "send", how=how["priority"], note=known.why_priority),
        counts_tokens=Finding(value=dialect.counts != "none", how="assumed"),
        tools=Finding(value=dialect.tools, how=how["tools"]),
        images=Finding(value=dialect.images != "off", how=how["images"]),
        prefill=Finding(value=dialect.prefill is not None, how="assumed"),
        names_stops=Finding(value=dialect.says_stop, how="assumed"),
    )


async def _tried(chat: Chat, known: Known, findings: Findings) -> Findings:
    """Let it answer a few short requests, one after another so that the speeds are those of one alone."""
    trials = Trials(chat.connection, known.dialect, findings.model)
    findings = await _speeds(trials, findings)
    return replace(
        findings,
        priority=await _priority(chat, known),
        counts_tokens=await _counts(chat, findings.model),
        json_schema=await _whether(trials.obeys_schema()),
        tools=await _tools(trials, known),
        images=await _whether(trials.sees()),
        prefill=await _whether(trials.prefills()),
        names_stops=await _whether(trials.names_stops()),
    )


async def _speeds(trials: Trials, findings: Findings) -> Findings:
    """Measure with a long prompt sent twice, which also shows whether cached tokens are told."""
    try:
        seen = await trials.cached()
    except EngineError as error:
        failed = Finding(value=None, how="tried", note=error.message)
        return replace(findings, cached_tokens=failed, prefill_tokens_s=failed, decode_tokens_s=failed)
    note = f"{seen.second.cached or 0} of {seen.second.prompt} when sent again"
    return replace(
        findings,
        cached_tokens=Finding(value=bool(seen.second.cached), how="tried", note=note),
        prefill_tokens_s=_speed(seen.prefill_tokens_s, f"{seen.first.prompt} tokens in {seen.first.first_s:.2f} s"),
        decode_tokens_s=_speed(seen.decode_tokens_s, f"{seen.first.output} tokens in {seen.first.rest_s:.2f} s"),
    )


def _speed(value: float | None, note: str) -> Finding:
    return Finding(value=None if value is None else round(value, 1), how="tried", note=note)


async def _priority(chat: Chat, known: Known) -> Finding:
    """Try a priority where that tells something; elsewhere what the engine said stands."""
    if known.priority == "try":
        await chat.try_priority()
        known = chat.known or known
    return Finding(value=known.priority == "send", how=known.how["priority"], note=known.why_priority)


async def _counts(chat: Chat, model: str) -> Finding:
    """Count the tokens of a sentence."""
    body = {"model": model, "messages": [{"role": "user", "content": COUNTED}]}
    params: CountParams = decode_count_params(msgspec.json.encode(body), rules=Rules())
    try:
        tokens = await chat.count_tokens(params)
    except StandbyError as error:
        return Finding(value=False, how="tried", note=str(error))
    return Finding(value=True, how="tried", note=f"a sentence has {tokens}")


async def _tools(trials: Trials, known: Known) -> Finding:
    """See whether the engine itself makes a call that is demanded; what will be done follows from the dialect."""
    found = await _whether(trials.calls_tools())
    done = {"native": "left to the engine", "schema": "made by a JSON Schema", "off": "refused"}[known.dialect.tools]
    note = f"calls are {done}" + (f"; {found.note}" if found.note else "")
    return replace(found, note=note)


async def _whether(trial: Awaitable[bool]) -> Finding:
    """Run one trial: a refusal is a no, anything else that fails leaves it open."""
    try:
        return Finding(value=await trial, how="tried")
    except EngineError as error:
        return Finding(value=None if error.failure.retriable else False, how="tried", note=error.message)


async def _metrics(chat: Chat) -> Finding:
    signals = await chat.signals()
    told = [] if signals is None else [f.name for f in fields(signals) if getattr(signals, f.name) is not None]
    return Finding(value=bool(told), how="tried", note=", ".join(told))
