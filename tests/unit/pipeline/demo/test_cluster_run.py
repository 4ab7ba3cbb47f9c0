"""The parts of a demo on a cluster that need none; on a real one it runs in tests/peers."""

import json
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from pipeline.demo import pod_metrics
from pipeline.demo.cluster_run import HeldPace, Lane
from pipeline.traces.window import TickWindow

WINDOW = TickWindow(10, 13, 300)


def test_a_held_replay_waits_at_its_moment_and_then_goes_at_its_speed() -> None:
    now = [50.0]
    pace = HeldPace(3600.0, 100.0, 90.0, clock=lambda: now[0])
    pace(3300.0)  # before the moment
    assert pace.now_s() == 3599.0
    waiting = threading.Thread(target=pace, args=(3600.0,))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    pace.release()
    waiting.join(10)
    assert not waiting.is_alive()
    now[0] += 6.0
    pace.release()  # again: does nothing
    assert pace.now_s() == 3600.0 + 90.0 + 600.0
    pace(4200.0)  # has come


def test_looks_are_put_together_by_tick() -> None:
    looks = [(3000.0, 4, 5), (3100.0, 2, 5), (3299.0, 6, 6), (3900.0, 8, 9), (4199.0, 8, 8)]
    least, first, mean = Lane("shop", "app-0-floor", {}, looks).by_tick(WINDOW)
    np.testing.assert_allclose(least, [2, 6, 6, 8])  # a tick without a look has what was there last
    np.testing.assert_allclose(first, [4, 6, 6, 8])
    np.testing.assert_allclose(mean, [16 / 3, 6, 6, 8.5])


def test_pods_have_metrics_as_the_api_has_them(tmp_path: Path) -> None:
    pods = {"app=app-0,lane=floor": {"a": 0.25, "b": 1.5}}
    with pod_metrics.serving(
        lambda labels: pods[",".join("=".join(of) for of in labels.items())], tmp_path
    ) as port:
        context = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))

        def get(path: str) -> dict[str, object]:
            with urllib.request.urlopen(f"https://127.0.0.1:{port}{path}", context=context) as answer:
                return json.load(answer)

        assert get("/apis/metrics.k8s.io/v1beta1")["groupVersion"] == "metrics.k8s.io/v1beta1"
        listed = get(
            "/apis/metrics.k8s.io/v1beta1/namespaces/x/pods?labelSelector=app%3Dapp-0%2Clane%3Dfloor"
        )
        assert listed["kind"] == "PodMetricsList"
        assert [
            (item["metadata"]["name"], item["containers"][0]["usage"]["cpu"])
            for item in listed["items"]  # type: ignore[attr-defined]
        ] == [("a", "250m"), ("b", "1500m")]
        for path in ("/openapi/v2", "/apis/metrics.k8s.io/v1beta1/nodes"):
            with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                get(path)
            refused.value.close()
