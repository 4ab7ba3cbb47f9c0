"""Java libraries by their Maven coordinates, fetched once per machine."""

import contextlib
import errno
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from pathlib import Path

from pipeline.background import watching
from pipeline.errors import Unreachable

NOTE_EVERY_S = 2.0
"""Seconds between two progress lines; all jars take half a minute on an ordinary connection."""


@contextlib.contextmanager
def progress(
    folder: Path, what: str, note: Callable[[str], None], every_s: float = NOTE_EVERY_S
) -> Generator[None]:
    """While the context lasts, note every `every_s` seconds how many jars, and megabytes of them, are in a folder."""

    def fetched() -> str:
        sizes: list[int] = []
        for path in folder.rglob("*.jar"):
            with contextlib.suppress(OSError):  # renamed since it was listed
                sizes.append(path.stat().st_size)
        return f"{len(sizes)} jars, {sum(sizes) / 1e6:.1f} MB"

    def watch(ended: threading.Event) -> None:
        while not ended.wait(every_s):
            note(f"fetching {what}: {fetched()}")

    note(f"fetching {what}, once on this machine")
    with watching(watch, "jars"):
        yield
    note(f"fetched {what}: {fetched()}")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def jars(coordinates: str, note: Callable[[str], None] = _to_stderr) -> list[Path]:
    """The jars of `coordinates` (group:artifact:version, joined with +) and of all that they need.

    Their folder appears whole under its final name: an interrupted download leaves nothing that looks
    complete, and two processes may fetch at once. `note` is given a line every two seconds meanwhile.

    Raises:
        Unreachable: the repository does not answer, or has no such coordinate.
    """
    import jgo  # here: half a second, and only those who start a Java program need it
    from jgo.config import GlobalSettings
    from jgo.env import Environment, EnvironmentBuilder, LinkStrategy
    from jgo.maven import MavenContext

    home = GlobalSettings.load().cache_dir / "leadtime" / coordinates.replace(":", "-")
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as folder:
            context = MavenContext(repo_cache=Path(folder, "m2"), timeout=60)
            builder = EnvironmentBuilder(context, Path(folder), LinkStrategy.COPY)
            try:
                with progress(Path(folder, "m2"), coordinates.partition("+")[0], note):
                    built = builder.from_endpoint(coordinates)
            except (OSError, RuntimeError) as error:
                message = f"jgo {jgo.__version__} cannot fetch {coordinates}: {error}"
                raise Unreachable(message) from error
            try:
                built.path.rename(home)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # those: another process was faster
                    raise
    return list(Environment(home).all_jars)
