"""What fires, from a real Alertmanager."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.lab.alertmanager import Alertmanager
from tools.lab.exporter import run
from tools.lab.hub import Hub, write_nodes
from tools.lab.wait import wait_for

from gpu_exporter.hub import alerts
from machines import Told, exporter, nobody

NOBODY = {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}
NASTY = "<script>window.hacked=1</script>"


def test_firing_alerts_stand_beside_their_machine(tmp_path: Path) -> None:
    with exporter(Told()) as server, Alertmanager(tmp_path, NOBODY) as manager:
        machines = {"gpu-a": server.port, "gpu-b": nobody()}
        hot = {"alertname": "GPUOverheating", "severity": "critical", "alias": "gpu-a", "gpu": "3"}
        other = {"alertname": "GPUIdle", "severity": "info", "instance": f"127.0.0.1:{server.port}", "owner": NASTY}
        manager.tell([other, hot, {**hot, "alias": "gpu-z"}], annotations={"summary": f"too hot {NASTY}"})
        url = f"http://127.0.0.1:{manager.port}"
        nodes = write_nodes(tmp_path / "nodes.json", machines)
        with Hub(tmp_path, nodes, f"--alertmanager.url={url}/") as hub:
            hub.wait_states(**{"gpu-a": "online", "gpu-b": "offline"})
            told = hub.wait(lambda: hub.json("/api/v1/nodes/gpu-a")["alerts"])
            assert [alert["name"] for alert in told] == ["GPUOverheating", "GPUIdle"], "the worst first"
            assert told[0]["silence_url"].startswith(f"{url}/#/silences/new?filter=%7Balertname%3D%22GPUOverheating%22")
            assert hub.json("/api/v1/nodes/gpu-b")["alerts"] == []
            assert "GPUOverheating 3</a>" in hub.get("/").text
            page = hub.get("/machines/gpu-a").text
            assert "silence</a>" in page
            assert NASTY not in page


@pytest.mark.parametrize("links", ["https://alerts.example.org/am/", ""])
def test_browsers_may_reach_it_elsewhere_or_not_at_all(tmp_path: Path, links: str) -> None:
    with exporter(Told()) as server, Alertmanager(tmp_path, NOBODY) as manager:
        manager.tell([{"alertname": "GPUOverheating", "alias": "gpu-a", "severity": "critical"}])
        nodes = write_nodes(tmp_path / "nodes.json", {"gpu-a": server.port})
        url = f"--alertmanager.url=http://127.0.0.1:{manager.port}"
        with Hub(tmp_path, nodes, url, f"--alertmanager.external-url={links}") as hub:
            (told,) = hub.wait(lambda: hub.json("/api/v1/nodes/gpu-a")["alerts"])
            page = hub.get("/machines/gpu-a").text
            assert "GPUOverheating" in page
            if links:
                assert told["silence_url"].startswith(
                    "https://alerts.example.org/am/#/silences/new?filter=%7Balertname"
                )
                assert f'href="{links}#/silences/new?filter=' in page
            else:
                assert "silence_url" not in told
                assert "silence</a>" not in page


def test_an_external_address_that_is_none(tmp_path: Path) -> None:
    nodes = write_nodes(tmp_path / "n.json", {})
    urls = ("--alertmanager.url=http://alertmanager:9093", "--alertmanager.external-url=alerts.example.org")
    done = run("hub", f"--nodes.file={nodes}", *urls)
    assert done.returncode == 2
    assert "--alertmanager.external-url: 'alerts.example.org' is not a URL" in done.stderr


def test_an_alertmanager_that_is_not_there_is_told(tmp_path: Path) -> None:
    nodes = write_nodes(tmp_path / "nodes.json", {})
    with Hub(tmp_path, nodes, f"--alertmanager.url=http://127.0.0.1:{nobody()}") as hub:
        wait_for(lambda: "What fires is not known" in hub.get("/").text)


def test_an_address_that_is_none(tmp_path: Path) -> None:
    done = run("hub", f"--nodes.file={write_nodes(tmp_path / 'n.json', {})}", "--alertmanager.url=alertmanager:9093")
    assert (done.returncode, "--alertmanager.url: 'alertmanager:9093' is not a URL" in done.stderr) == (2, True)


def test_an_external_address_of_no_alertmanager(tmp_path: Path) -> None:
    nodes = write_nodes(tmp_path / "n.json", {})
    done = run("hub", f"--nodes.file={nodes}", "--alertmanager.external-url=https://alerts.example.org")
    assert (done.returncode, "write --alertmanager.url too" in done.stderr) == (2, True), done.stderr


def test_whatever_it_says_nothing_breaks() -> None:
    reader = alerts.Alerts("http://x", links="http://x")
    told = [1, {}, {"labels": 3}, {"labels": {"alertname": 5}, "annotations": []}]
    assert [alert.name for alert in reader._read(told)] == [""]
    with pytest.raises(ValueError, match="no list of alerts"):
        list(reader._read({}))
