"""The targets file: which object of a cluster or cloud each `app/offer` of the commands is.

[[target]]
ref = "shop/pod"                      # app/offer as in prices and commands, or app/replicas on shared nodes
kind = "HorizontalPodAutoscaler"      # says whose object it is: each provider has kinds of its own
name = "web"

One file may have targets of several providers. Other fields are the provider's.
"""

import json
import tomllib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar, cast

from pipeline.errors import Rejected, Retryable, UsageError
from pipeline.names import name_fault, offer_fault
from pipeline.providers.base import Provider
from pipeline.wire.commands import REPLICAS

TARGET_TAG: Final = "leadtime.dev/target"
"""Tag whose value is the `ref` of a group."""
Row = dict[str, Any]
"""A table [[target]]."""


class Resource(Protocol):
    """A target of commands: `ref` is `app/offer`; `place`, whose text names it, is of no other target."""

    @property
    def ref(self) -> str:
        """As in commands."""
        ...

    @property
    def place(self) -> object:
        """What it is, hashable."""
        ...


class Client(Protocol):
    """Clients of an account."""

    def close(self) -> None:
        """End them."""
        ...


R = TypeVar("R", bound=Resource)
A = TypeVar("A", bound=Hashable)
C = TypeVar("C", bound=Client)
T = TypeVar("T")


class Integration(ABC, Generic[R]):
    """A provider whose targets a file names, without a connection: its client library is imported when it is needed.

    Attributes:
        kinds: values of `kind` that are its own.
        fields: of a table [[target]], of which ref, kind and name are required.
        scope: option of `leadtime targets discover` that says where its targets are; empty: it finds none.
    """

    kinds: ClassVar[Sequence[str]]
    fields: ClassVar[Sequence[str]]
    scope: ClassVar[str] = ""

    @abstractmethod
    def faults(self, row: Row) -> list[str]:
        """What is wrong with a table whose fields are texts and whose ref is good, each as a line."""

    @abstractmethod
    def resource(self, row: Row) -> R:
        """The target of a table without faults."""

    @abstractmethod
    def live_faults(self, resources: Sequence[R]) -> list[str]:
        """What hinders targets, as its API tells now, each as a line; nothing is changed.

        Raises:
            UsageError: there are no credentials, or the client library is not installed.
            Retryable: the API does not answer.
        """

    @abstractmethod
    def release(self, resources: Sequence[R]) -> tuple[list[str], list[str]]:
        """Give targets back; returns what was done and what could not be, each as lines.

        Raises:
            UsageError: as `live_faults`.
        """

    def discover(self, where: Mapping[str, str]) -> str:
        """A targets file of what the tag TARGET_TAG names as `app/offer`, with what hinders each as a comment.

        Args:
            where: options by name, of which `scope` is one.

        Raises:
            UsageError: as `live_faults`, or there is none.
            Retryable, Rejected: the API does not tell.
        """
        raise UsageError(f"targets of {', '.join(self.kinds)} are not found by a tag: {where}")

    @abstractmethod
    def provider(self, resources: Sequence[R], *, dry_run: bool) -> AbstractContextManager[Provider]:
        """The provider of targets; dry_run: its commands are tried as far as its API allows, and rejected.

        Raises:
            UsageError: as `live_faults`.
        """


@contextmanager
def connected(accounts: Iterable[A], connect: Callable[[A], C]) -> Generator[dict[A, C]]:
    """Clients by account, which are closed at the end; connect: makes those of an account."""
    with ExitStack() as stack:
        yield {of: stack.enter_context(closing(connect(of))) for of in dict.fromkeys(accounts)}


def not_installed(extra: str, error: ModuleNotFoundError) -> Exception:
    """What to raise where the client library of a provider cannot be imported; a module of ours is a defect."""
    if (error.name or "").startswith("pipeline"):
        return error
    library = f"a library that is not installed ({error.name})"
    return UsageError(f"--provider {extra} needs {library}: pip install 'leadtime[{extra}]'")


@dataclass(frozen=True)
class Parsed:
    """A targets file: targets without a fault, with the name of their provider, and all faults, each as a line."""

    targets: Sequence[tuple[str, Any]]
    faults: Sequence[str]

    @property
    def refs(self) -> list[str]:
        """Of all targets, as the file has them."""
        return [resource.ref for _, resource in self.targets]

    def by_provider(self) -> dict[str, list[Any]]:
        """Targets by the name of their provider."""
        grouped: dict[str, list[Any]] = {}
        for name, resource in self.targets:
            grouped.setdefault(name, []).append(resource)
        return grouped


def parse_targets(path: Path, integrations: Mapping[str, Integration[Any]]) -> Parsed:
    """Read a targets file.

    Args:
        path: of the file.
        integrations: by the name that targets of commands carry.

    Raises:
        UsageError: the file cannot be read, or is no TOML.
    """
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no TOML: {error}") from None
    rows = document.pop("target", [])
    faults = [f"{name}: there is only [[target]]" for name in document]
    if not isinstance(rows, list) or not rows:
        return Parsed([], [*faults, "no [[target]]"])
    targets: list[tuple[str, Resource]] = []
    for number, row in enumerate(cast("list[Any]", rows), 1):
        if not isinstance(row, dict):
            faults.append(f"target {number}: must be a table")
            continue
        table = cast("Row", row)
        provider = _provider(table, integrations)
        wrong = _faults(table, provider, integrations)
        faults += [f"target {table.get('ref') or number}: {fault}" for fault in wrong]
        if not wrong:
            targets.append((provider, integrations[provider].resource(table)))
    return Parsed(targets, [*faults, *_doubled([resource for _, resource in targets])])


def read_targets(path: Path, integrations: Mapping[str, Integration[Any]]) -> Parsed:
    """Read a targets file that has no fault.

    Raises:
        UsageError: it cannot be read, or has faults: names the first.
    """
    parsed = parse_targets(path, integrations)
    if parsed.faults:
        more = (
            f" (and {len(parsed.faults) - 1} more: leadtime targets check)" if len(parsed.faults) > 1 else ""
        )
        raise UsageError(f"{path}: {parsed.faults[0]}{more}")
    return parsed


def named(kept: Mapping[str, T], ref: str) -> T:
    """What is kept of a target.

    Raises:
        Rejected: the targets file has none of this ref.
    """
    if ref not in kept:
        raise Rejected(f"the targets file has no {ref}")
    return kept[ref]


def give_back_each(resources: Iterable[R], give_back: Callable[[R], str]) -> tuple[list[str], list[str]]:
    """Give targets back one by one; returns what was done and what could not be, each as lines."""
    done: list[str] = []
    failed: list[str] = []
    for resource in resources:
        try:
            done.append(f"target {resource.ref}: {give_back(resource)}")
        except (Retryable, Rejected) as error:
            failed.append(f"target {resource.ref}: {error}")
    return done, failed


def _provider(row: Row, integrations: Mapping[str, Integration[Any]]) -> str:
    """Whose kind a table's is; empty: nobody's."""
    return next((name for name, of in integrations.items() if row.get("kind") in of.kinds), "")


def _faults(row: Row, provider: str, integrations: Mapping[str, Integration[Any]]) -> list[str]:
    """What is wrong with a table."""
    every = {name: None for of in integrations.values() for name in of.fields}
    fields = integrations[provider].fields if provider else list(every)
    faults = [f"no field {name!r}: there are {', '.join(fields)}" for name in row if name not in fields]
    faults += [f"{name} is missing" for name in ("ref", "kind", "name") if name not in row]
    faults += [f"{name} must be a text" for name in fields if name in row and not isinstance(row[name], str)]
    if not faults:
        faults = _ref_faults(row["ref"])
        kinds = ", ".join(kind for of in integrations.values() for kind in of.kinds)
        faults += (
            integrations[provider].faults(row)
            if provider
            else [f"no kind {row['kind']!r}: there are {kinds}"]
        )
    return faults


def _ref_faults(ref: str) -> list[str]:
    app, slash, offer = ref.rpartition("/")
    if not slash:
        return ["ref must be app/offer, as in commands"]
    wrong = [("app", name_fault(app)), ("offer", None if offer == REPLICAS else offer_fault(offer))]
    return [f"ref: the {what} {fault}" for what, fault in wrong if fault]


def _doubled(resources: Sequence[Resource]) -> list[str]:
    refs = Counter(resource.ref for resource in resources)
    places = Counter(resource.place for resource in resources)
    return [
        *(f"target {ref}: {n} targets have this ref" for ref, n in refs.items() if n > 1),
        *(f"{place}: {n} targets are this object" for place, n in places.items() if n > 1),
    ]


def table(fields: Mapping[str, str]) -> str:
    """A table [[target]] of a file; JSON's strings are TOML's too."""
    return "\n".join(["[[target]]", *(f"{name} = {json.dumps(value)}" for name, value in fields.items())])


def proposal(fields: Mapping[str, str], check: Callable[[], None]) -> str:
    """A table of a file, below a comment where `check` is `Rejected`."""
    try:
        check()
    except Rejected as error:
        return f"# {error}\n{table(fields)}"
    return table(fields)
