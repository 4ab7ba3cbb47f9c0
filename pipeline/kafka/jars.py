"""Java libraries by their Maven coordinates, fetched once per machine."""

import errno
import tempfile
from pathlib import Path

from pipeline.errors import Unreachable


def jars(coordinates: str) -> list[Path]:
    """The jars of `coordinates` (group:artifact:version, joined with +) and of all that they need.

    Their folder appears whole under its final name: an interrupted download leaves nothing that looks
    complete, and two processes may fetch at once.

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
