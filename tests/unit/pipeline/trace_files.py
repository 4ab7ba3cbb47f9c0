"""Trace files for tests."""

from pathlib import Path

import polars as pl

from models.synthetic.population import Population, columns


def write(people: Population, path: Path) -> None:
    """A population of minutes as a Parquet trace file."""
    frames = []
    for u, user in enumerate(people.users):
        data = dict(zip(columns(), [*people.values[:, u].T, *people.events[:, u].T], strict=True))
        frames.append(
            pl.DataFrame(data).fill_nan(None).with_columns(app=pl.lit(people.apps[u]), user=pl.lit(user))
        )
    start = pl.from_epoch(pl.Series(people.ticks * 60)).dt.replace_time_zone("UTC")
    pl.concat([frame.with_columns(ts=start) for frame in frames]).write_parquet(path)
