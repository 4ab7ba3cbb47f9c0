"""What a command leaves on the object that it changed: annotations, written in the same patch as the count.

    leadtime.dev/command  id of the last command
    leadtime.dev/epoch    its epoch
    leadtime.dev/desired  count that it set
    leadtime.dev/result   JSON of what is answered when the command comes again, with the object's uid

An object that was made anew from another's manifest carries that one's annotations, but another uid: they do not
count. The count is ours while it is what the mark says, whatever else was edited: edits of annotations alone raise
`metadata.generation` of some kinds.

Where only the subresource `scale` may be written, which drops annotations, the command and epoch are in the name of
the field manager, which the API server notes as the owner of the count (`metadata.managedFields`).
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import Rejected
from pipeline.providers.kubernetes.resources import Object, Resource, count_of
from pipeline.providers.marks import Mark

PREFIX: Final = "leadtime.dev/"
MANAGER: Final = "leadtime"
"""Field manager of our patches, and of the managers that name a command."""
PAUSED: Final = (f"{PREFIX}paused", "autoscaling.keda.sh/paused")
"""Annotations that stop us where they are "true"."""
PAUSED_AT: Final = "autoscaling.keda.sh/paused-replicas"
"""Annotation that stops KEDA at a count, whatever it is."""


@dataclass(frozen=True)
class State:
    """An object as far as its count is concerned.

    Attributes:
        count: in force; None: it has none.
        generation: grows with each change of the count, whoever makes it.
        mark: of our last command; None: none, or not readable.
        owner: field manager of the count; empty where it is not known.
    """

    count: int | None
    generation: int
    mark: Mark | None
    owner: str

    @property
    def ours(self) -> bool:
        """Whether the count is what our last command set."""
        return self.mark is not None and self.mark.desired == self.count


def state_of(resource: Resource, obj: Object) -> State:
    """Read an object's count, our mark on it and who owns the count."""
    count, owner = count_of(resource.kind, obj), owner_of(obj, resource.kind.count)
    mark = _named(owner, count) if resource.by_scale else _noted(obj)
    generation = obj["metadata"].get("generation")
    if generation is None:  # HorizontalPodAutoscalers have none
        generation = 1 if mark is None else mark.generation + (mark.desired != count)
    return State(count, int(generation), mark, owner)


def stated_count(resource: Resource, state: State) -> int:
    """The count of an object that has one.

    Raises:
        Rejected: it has none.
    """
    if state.count is None:
        raise Rejected(f"{resource.place} is dynamic: only a static one, with spec.replicas, has a count")
    return state.count


def annotations(mark: Mark, uid: str) -> dict[str, str]:
    """A mark as annotations of the object with that uid."""
    result = {
        "uid": uid,
        "before": mark.before,
        "original": mark.original,
        "accepted_s": mark.accepted_s,
        "generation": mark.generation,
    }
    values = {
        "command": mark.command,
        "epoch": str(mark.epoch),
        "desired": str(mark.desired),
        "result": json.dumps(result),
    }
    return {PREFIX + name: value for name, value in values.items()}


NO_MARK: Final = {PREFIX + name: None for name in ("command", "epoch", "desired", "result")}
"""Annotations of a patch that takes a mark away."""


def manager(mark: Mark) -> str:
    """A mark as the name of a field manager: at most 128 characters are allowed, and this has at most 62."""
    return f"{MANAGER}:{mark.epoch}:{mark.command}"


def pause_of(obj: Object) -> str | None:
    """The annotation that says that the object's count is to be left alone; None: none does."""
    notes = obj["metadata"].get("annotations") or {}
    if notes.get(PAUSED_AT):
        return f"{PAUSED_AT}={notes[PAUSED_AT]}"
    return next((f"{name}=true" for name in PAUSED if str(notes.get(name)).lower() == "true"), None)


def _noted(obj: Object) -> Mark | None:
    notes: dict[str, Any] = obj["metadata"].get("annotations") or {}
    try:
        result = json.loads(notes[f"{PREFIX}result"])
        if result["uid"] != obj["metadata"]["uid"]:
            return None
        return Mark(
            str(notes[f"{PREFIX}command"]),
            int(notes[f"{PREFIX}epoch"]),
            int(result["before"]),
            int(notes[f"{PREFIX}desired"]),
            int(result["original"]),
            float(result["accepted_s"]),
            int(result["generation"]),
        )
    except (KeyError, ValueError, TypeError):  # none, or somebody edited them
        return None


def _named(owner: str, count: int | None) -> Mark | None:
    name, _, rest = owner.partition(":")
    epoch, _, command = rest.partition(":")
    if name != MANAGER or not epoch.lstrip("-").isdigit() or count is None:
        return None
    return Mark(command, int(epoch), count, count, count, 0.0)


def owner_of(obj: Object, field: str) -> str:
    """The manager that set a field of `spec` last; empty: none is noted."""
    owners = [
        (str(entry.get("time", "")), str(entry.get("manager", "")))
        for entry in obj["metadata"].get("managedFields") or ()
        if f"f:{field}" in entry.get("fieldsV1", {}).get("f:spec", {})
    ]
    return max(owners, default=("", ""))[1]
