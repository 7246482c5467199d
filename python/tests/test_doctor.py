"""`python -m foreword.doctor`: what it finds, and what it says to do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import Agent, Cluster

from foreword.doctor import main

GOOD = {
    "backend_name": "foreword",
    "module_path": "foreword.sglang",
    "class_name": "ForewordStorage",
    "interface_v1": 1,
    "agent": "unix:/nowhere/node.sock",
}


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    code = main(arguments)
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_all_is_well_with_an_agent_its_mount_and_a_configuration(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, agent: Agent, way: str, tmp_path: Path
) -> None:
    config = tmp_path / "foreword.json"
    config.write_text(json.dumps(GOOD | {"agent": agent.address(way)}))
    code, lines = said(capsys, "--config", str(config), "--mount", f"{cluster.folder}/l3")
    assert code == 0, lines
    assert f"ok    config: agent {agent.address(way)}, tenant default, timeout_ms 5000" in lines
    assert "ok    pages: a page was published and read back" in lines
    assert any(line.startswith("ok    mount: marked for cluster ") for line in lines)
    assert lines[-1].endswith(" well, 0 lacking")


def test_it_runs_as_a_module(agent: Agent) -> None:
    command = [sys.executable, "-m", "foreword.doctor", "--agent", agent.address("unix")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pages: a page was published and read back" in done.stdout


def test_nothing_to_look_at_is_an_error_of_the_caller() -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"agnet": 1}, 'LACKS config: agnet: no such key; write "agent" instead'),
        ({"interface_v1": 0}, 'LACKS config: interface_v1: expected 1, got 0; write "interface_v1": 1'),
        (
            {"class_name": "Foreword"},
            "LACKS config: class_name: expected ForewordStorage, got 'Foreword'; write \"class_name\"",
        ),
        ({"backend_name": None}, 'LACKS config: backend_name: SGLang needs it; write "backend_name": "foreword"'),
        ({"timeout_ms": 60000}, "LACKS config: timeout_ms: expected a whole number from 1 to 9000, got 60000"),
    ],
)
def test_a_configuration_says_what_to_write(
    capsys: pytest.CaptureFixture[str], wrong: dict[str, object], line: str
) -> None:
    extra = {key: value for key, value in (GOOD | wrong).items() if value is not None}
    code, lines = said(capsys, "--config", json.dumps(extra))
    assert code == 1
    assert any(one.startswith(line) for one in lines), lines


def test_a_configuration_may_be_toml_and_names_shared_memory(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("tomllib")
    config = tmp_path / "foreword.toml"
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in (GOOD | {"allocator": "shm"}).items()))
    _, lines = said(capsys, "--config", f"@{config}")
    assert any("allocator: SGLang heeds it in inline JSON only" in line for line in lines), lines


@pytest.mark.parametrize("written", ["/nowhere/config.json", "{", "[1]"])
def test_a_configuration_that_cannot_be_read_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, written: str
) -> None:
    if written == "[1]":
        (tmp_path / "list.json").write_text(written)
        written = str(tmp_path / "list.json")
    code, lines = said(capsys, "--config", written)
    assert code == 1
    assert len(lines) == 2
    assert lines[0].startswith("LACKS config: ")


def test_an_agent_that_is_not_there_is_told_by_what_its_socket_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, lines = said(capsys, "--agent", f"unix:{tmp_path}/none")
    assert code == 1
    assert lines[0].startswith("LACKS agent: No such file or directory: ")
    assert f"foreword node --socket {tmp_path}/none" in lines[0]
    (tmp_path / "file").touch()
    assert "is no socket; name the one" in said(capsys, "--agent", f"unix:{tmp_path}/file")[1][0]
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/left")
    assert (
        "Connection refused; the agent has ended: start it again"
        in said(capsys, "--agent", f"unix:{tmp_path}/left")[1][0]
    )


def test_an_address_that_is_none_says_what_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = said(capsys, "--agent", "somewhere")
    assert code == 1
    assert lines[0].endswith("write unix:/run/foreword/node.sock or HOST:PORT")


def test_a_directory_that_is_no_cluster_s_says_what_to_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, lines = said(capsys, "--mount", str(tmp_path))
    assert code == 1
    assert lines[0].startswith(f"ok    mount: {tmp_path} is on ")
    assert "no cluster's mark (<id>/CLUSTER)" in lines[1]
    assert "foreword meta init" in lines[1]
    code, lines = said(capsys, "--mount", f"{tmp_path}/none")
    assert code == 1
    assert "mount it, then foreword meta init" in lines[0]


def test_a_3fs_without_usrbio_says_what_to_mount(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foreword import doctor

    monkeypatch.setattr(doctor, "_mounted", lambda root: ("fuse.hf3fs", str(tmp_path)))
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "CLUSTER").touch()
    code, lines = said(capsys, "--mount", str(tmp_path))
    assert code == 1
    assert f"LACKS usrbio: no {tmp_path}/3fs-virt/iovs; mount the whole 3FS" in "\n".join(lines)
    (tmp_path / "3fs-virt" / "iovs").mkdir(parents=True)
    code, lines = said(capsys, "--mount", str(tmp_path))
    assert code == 0
    assert "for --arena-bytes" in "\n".join(lines)
