"""The rows of the table "SDK x call": what every story plays, in the order of a first visit."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What became of one call; anything else that a story reports is the reason of a failure."""

    WORKS = "yes"
    NOT_OFFERED = "not offered"


CALLS = {
    "messages.batches.create": "answers `in_progress`, every item in `processing`, 24 hours to go",
    "messages.batches.create, faults": "no items, a doubled `custom_id`, a bad `custom_id`: `BadRequestError`",
    "messages.batches.retrieve": "right after the create; then until `ended`, the counts adding up each time",
    "messages.batches.results": "one row an item while it arrives; a broken item is an `errored` row",
    "messages.batches.results, too early": "refused by the SDK itself, and by the route with `NotFoundError`",
    "messages.batches.list": "newest first; `limit` of 1, 1000, none; 0 and 1001 are `BadRequestError`",
    "messages.batches.list, forwards": "walks all pages by `after_id`, nothing doubled, nothing missed, and stops",
    "messages.batches.list, backwards": "walks from the oldest to the newest by `before_id`",
    "messages.batches.cancel": "`canceling` at once, then `ended` with every row; `BadRequestError` after that",
    "messages.batches.delete": "`BadRequestError` while it runs; afterwards gone from everywhere",
    "messages.create": "a whole message with its usage",
    "messages.create, faults": "no messages: `BadRequestError`; a model nobody serves: `NotFoundError`",
    "messages.create, streamed": "all events in their order",
    "messages.stream": "the text as it comes, and the message it adds up to",
    "messages.count_tokens": "a number that grows with the prompt",
    "models.list": "the page, and each model by `models.retrieve`; an unknown one is `NotFoundError`",
    "beta.messages.batches": "create, retrieve, results, cancel, list (and delete) with a retired beta value",
    "beta.messages": "create and count_tokens",
    "beta.messages.stream": "the text and the message",
    "beta.models": "list and retrieve",
    "asynchronous client": "create, retrieve, results, list, cancel, delete, stream, count_tokens, models",
    "key in `X-Api-Key`": "opens its workspace",
    "key in `Authorization`": "opens its workspace",
    "a key in each header": "one that opens is enough",
    "wrong key": "`AuthenticationError` in both headers",
    "workspaces": "another workspace's batch is `NotFoundError`; its name in the header is `PermissionDeniedError`",
    "unknown id, unknown path": "`NotFoundError`",
    "request ids": "in every header, and in an error's body the same",
    "path prefix in the base URL": "create, retrieve, results",
}
