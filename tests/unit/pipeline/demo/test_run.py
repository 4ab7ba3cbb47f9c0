"""The demo's lines of progress where stderr is no terminal."""

from pipeline.demo.run import ProgressLines


def test_a_line_comes_every_three_seconds_and_only_where_something_changed() -> None:
    said: list[str] = []
    lines = ProgressLines(said.append, begun_s=10.0)
    for now_s, text in (
        (10.1, "0 of 9 ticks"),  # another line has just come
        (13.0, "0 of 9 ticks"),
        (16.0, "0 of 9 ticks"),  # TensorFlow compiles: there is nothing new
        (19.0, "0 of 9 ticks"),
        (19.1, "1 of 9 ticks"),  # what comes after a silence comes at once
        (19.2, "2 of 9 ticks"),
        (22.1, "4 of 9 ticks"),
    ):
        lines.note(text, now_s)
    assert said == ["0 of 9 ticks", "1 of 9 ticks", "4 of 9 ticks"]
