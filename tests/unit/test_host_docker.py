from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from thinpoolmgr.core.desired import DesiredEngine, EngineConfig
from thinpoolmgr.core.model import EngineDevice, ServiceState
from thinpoolmgr.errors import CommandFailedError, UnavailableError
from thinpoolmgr.host import systemd
from thinpoolmgr.host.engines import docker_api
from thinpoolmgr.host.engines.docker import observe_docker
from thinpoolmgr.host.engines.docker_files import DockerPaths
from thinpoolmgr.host.runner import CompletedRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thinpoolmgr.core.model import Engine

    Serve = Callable[..., "FakeEngine"]

DESIRED = DesiredEngine(kind="docker", config=EngineConfig(pool="docker"))
PROPERTIES = (
    "Id,LoadState,ActiveState,UnitFileState,ExecStart,EnvironmentFiles,FragmentPath,DropInPaths,NeedDaemonReload,Job"
)
SHOW = ("systemctl", "show", f"--property={PROPERTIES}")
OTHER_DROP_INS = ("run/docker.service.d", "lib/docker.service.d", "lib/service.d")
DEFAULTS = ("default/docker", "sysconfig/docker", "sysconfig/docker-storage")


def completed(code: int, stdout: str) -> CompletedRun:
    return CompletedRun((), code, stdout, "", 0.0)


class Host:
    """A host in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # A socket's path must be shorter than 108 bytes, which a test's own folder may not leave room for.
        self.short = Path(tempfile.mkdtemp(prefix="tpm"))
        self.paths = DockerPaths(
            config=f"{root}/etc/docker/daemon.json",
            data_root=f"{root}/var/lib/docker",
            socket=f"{self.short}/docker.sock",
            proc=f"{root}/proc",
            systemd=f"{root}/run/systemd/system",
            sysv_script=f"{root}/etc/init.d/docker",
            override=f"{root}/etc/systemd/system/docker.service.d/zz-thinpoolmgr.conf",
            drop_ins=tuple(
                f"{root}/{name}" for name in ("run/docker.service.d", "lib/docker.service.d", "lib/service.d")
            ),
            defaults=tuple(f"{root}/etc/{name}" for name in DEFAULTS),
            search=f"{root}/usr/bin",
        )
        self.answers: dict[tuple[str, ...], CompletedRun | Exception] = {}
        self.ran: list[tuple[str, ...]] = []
        self.write("proc/self/mountinfo", "")

    def write(self, path: str, text: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def install(self, version: str = "Docker version 20.10.24+dfsg1, build 297e128\n") -> None:
        daemon = self.write("usr/bin/dockerd", "")
        daemon.chmod(0o755)
        self.answers[str(daemon), "--version"] = completed(0, version)

    def process(self, pid: int, comm: str = "dockerd", cmdline: str = "dockerd\0", state: str = "S") -> None:
        self.write(f"proc/{pid}/comm", f"{comm}\n")
        self.write(f"proc/{pid}/cmdline", cmdline)
        self.write(f"proc/{pid}/stat", f"{pid} (a) b) {state} 1 1\n")

    def systemd(self, stdout: str) -> None:
        (self.root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
        self.answers[*SHOW, "--", "docker.service", "docker.socket"] = completed(0, stdout)

    def run(self, argv: tuple[str, ...]) -> CompletedRun:
        self.ran.append(argv)
        answer = self.answers[argv]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def observe(self, config_file: str = "auto") -> Engine:
        desired = DesiredEngine(kind="docker", config=EngineConfig(pool="docker", config_file=config_file))
        return observe_docker(desired, self.run, self.paths)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path.resolve())
    yield made
    shutil.rmtree(made.short)


# A fake engine


INFO = {"Driver": "devicemapper", "DockerRootDir": "/srv/docker", "Containers": 1}
ANSWERS = {
    "/info": INFO,
    "/version": {"Version": "20.10.24+dfsg1", "ApiVersion": "1.41"},
    "/containers/json": [{"Id": "a" * 64, "Names": ["/web"]}, {"Id": "b" * 64, "Names": None}],
}


def http(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.0 " + status.encode() + b"\r\nContent-Type: application/json\r\n\r\n" + body


class FakeEngine:
    """Answers each connection with the bytes for its path, then closes."""

    def __init__(self, path: str, answers: dict[str, bytes | None]) -> None:
        self.answers = answers
        self.requests: list[str] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.held: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        request = connection.recv(4096).decode().split("\r\n")[0]
        self.requests.append(request)
        answer = self.answers.get(request.split(" ")[1])
        self.held.append(connection)
        if answer is not None:
            with contextlib.suppress(OSError):
                connection.sendall(answer)
            connection.close()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.held:
            connection.close()


@pytest.fixture
def serve(host: Host) -> Iterator[Serve]:
    engines: list[FakeEngine] = []

    def start(path: str = "", **changes: bytes | None) -> FakeEngine:
        answers: dict[str, bytes | None] = {key: http(json.dumps(value).encode()) for key, value in ANSWERS.items()}
        answers |= {f"/{key.replace('_', '/')}": value for key, value in changes.items()}
        engines.append(FakeEngine(path or host.paths.socket, answers))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


# Installed, running


def test_a_host_without_docker(host: Host) -> None:
    engine = host.observe()
    assert engine.name == "docker"
    assert engine.kind == "docker"
    assert not engine.installed
    assert engine.running is False
    assert engine.version == engine.driver == engine.config_problem == engine.state_problem == ""
    assert engine.config_path == host.paths.config
    assert engine.config_text is None
    assert engine.data_root == host.paths.data_root
    assert engine.state is None
    assert engine.service == ServiceState(systemd=False)
    assert host.ran == []


def test_an_installed_engine_tells_its_version(host: Host) -> None:
    host.install()
    engine = host.observe()
    assert engine.installed
    assert engine.version == "20.10.24+dfsg1"
    assert engine.running is False
    assert engine.pids == ()


@pytest.mark.parametrize(
    "answer",
    [
        completed(1, "Docker version 1.2, build"),
        completed(0, "nonsense"),
        completed(0, ""),
        CommandFailedError("hangs"),
    ],
)
def test_a_version_that_cannot_be_told_is_empty(host: Host, answer: CompletedRun | Exception) -> None:
    host.install()
    host.answers[f"{host.root}/usr/bin/dockerd", "--version"] = answer
    assert host.observe().version == ""


def test_a_running_engine_is_believed(host: Host, serve: Serve) -> None:
    host.install()
    host.process(77)
    fake = serve()
    engine = host.observe()
    assert engine.running is True
    assert engine.pids == (77,)
    assert engine.version == "20.10.24+dfsg1"
    assert engine.driver == "devicemapper"
    assert engine.data_root == "/srv/docker"
    assert engine.containers == ("web", "b" * 12)
    assert fake.requests == ["GET /info HTTP/1.0", "GET /version HTTP/1.0", "GET /containers/json HTTP/1.0"]
    assert host.ran == []


def test_a_chunked_answer_is_understood(host: Host, serve: Serve) -> None:
    host.process(77)
    body = json.dumps(INFO).encode()
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    serve(info=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
    assert host.observe().running is True


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"",
        b"rubbish\r\n\r\n",
        http(b'{"Driver": "", "DockerRootDir": "/", "Version": "1"}', "503 Service Unavailable"),
        http(b"{"),
        http(b"[]"),
        http(b'{"Driver": 5}'),
        http(b"\xff"),
        http(b'{"x": ' + b"[" * 100_000),
        http(b'[{"x": ' + b"[" * 100_000),
        http(b'{"Driver": "", "DockerRootDir": "relative", "Version": 1}'),
        http(b'[{"Id": "../../info"}]'),
        http(b"{}" + b" " * docker_api.LIMIT_BYTES),
        b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 1000,
    ],
)
@pytest.mark.parametrize("path", ["info", "version", "containers_json"])
def test_what_does_not_answer_as_docker_is_unknown(
    host: Host, serve: Serve, monkeypatch: pytest.MonkeyPatch, answer: bytes | None, path: str
) -> None:
    monkeypatch.setattr(docker_api, "TIMEOUT_SECONDS", 0.3)
    host.process(77)
    serve(**{path: answer})
    if path == "containers_json" and answer == http(b"[]"):
        assert host.observe().running is True
    else:
        engine = host.observe()
        assert engine.running is None
        assert engine.containers == ()


def test_an_answer_without_end_is_cut_off(host: Host, serve: Serve) -> None:
    serve(info=http(json.dumps(INFO).encode() + b" " * docker_api.LIMIT_BYTES))
    with pytest.raises(docker_api.ApiError, match=f"more than {docker_api.LIMIT_BYTES} bytes"):
        docker_api.get(host.paths.socket, "/info", docker_api.Info)


def test_an_engine_that_drips_cannot_hold_us(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_api, "TIMEOUT_SECONDS", 0.5)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(host.paths.socket)
    listener.listen()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while True:
                connection.sendall(b"H")
                time.sleep(0.05)

    dripping = threading.Thread(target=drip)
    dripping.start()
    begin = time.monotonic()
    with pytest.raises(docker_api.ApiError, match="timed out"):
        docker_api.get(host.paths.socket, "/info", docker_api.Info)
    assert time.monotonic() - begin < 2
    dripping.join()
    listener.close()


def test_what_the_engine_says_of_its_containers(host: Host, serve: Serve) -> None:
    names = [{"Id": "c" * 64, "Names": ["/\x1b[31m", "/ok"]}, {"Id": "d" * 64, "Names": ["/../x"]}]
    serve(
        info=http(json.dumps({**INFO, "LiveRestoreEnabled": True}).encode()),
        containers_json=http(json.dumps(names).encode()),
    )
    host.process(77)
    engine = host.observe()
    assert (engine.containers, engine.container_ids) == (("ok", "d" * 12), ("c" * 64, "d" * 64))
    assert engine.live_restore
    assert engine.socket == host.paths.socket


def test_the_environment_of_the_user_does_not_choose_the_engine(
    host: Host, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = serve(str(tmp_path / "other.sock"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/other.sock")
    host.process(77)
    serve()
    assert host.observe().running is True
    assert other.requests == []


def stopping(*statuses: str) -> dict[str, bytes | None]:
    ids = [f"{place:x}" * 64 for place in range(len(statuses))]
    listed = json.dumps([{"Id": each, "Names": [f"/c{each[0]}"]} for each in ids]).encode()
    answers: dict[str, bytes | None] = {"containers_json": http(listed)}
    return answers | {f"containers_{each}_stop": http(b"", status) for each, status in zip(ids, statuses, strict=True)}


def test_all_running_containers_are_stopped_and_those_that_stay_are_told(host: Host, serve: Serve) -> None:
    fake = serve(**stopping("204 No Content", "304 Not Modified", "404 Not Found"))
    left = docker_api.stop_containers(host.paths.socket)
    assert [container.name for container in left] == ["c0", "c1", "c2"]
    asked = [request.split(" ")[:2] for request in fake.requests]
    assert asked[1:4] == [["POST", f"/containers/{digit * 64}/stop"] for digit in "012"]
    assert asked[0] == asked[4] == ["GET", "/containers/json"]


@pytest.mark.parametrize("answer", [http(b"", "500 Internal Server Error"), b"", b"rubbish", None])
def test_a_container_that_cannot_be_stopped_is_named(
    host: Host, serve: Serve, monkeypatch: pytest.MonkeyPatch, answer: bytes | None
) -> None:
    monkeypatch.setattr(docker_api, "STOP_SECONDS", 0.3)
    listed = json.dumps([{"Id": "1" * 64, "Names": ["/stuck"]}]).encode()
    serve(**{"containers_json": http(listed), f"containers_{'1' * 64}_stop": answer})
    with pytest.raises(docker_api.ApiError, match="stuck"):
        docker_api.stop_containers(host.paths.socket)


def test_many_containers_that_take_their_time_are_all_asked(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"{number:064x}" for number in range(40)]
    clock = [0.0]

    def stop(_path: str, _batch: object, deadline: float) -> None:
        clock[0] += 70
        if clock[0] > deadline:
            msg = "timed out"
            raise ValueError(msg)

    monkeypatch.setattr(docker_api, "_stop", stop)
    monkeypatch.setattr(docker_api, "running_containers", lambda _: tuple(docker_api.Container(i) for i in ids))
    monkeypatch.setattr(docker_api, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    assert len(docker_api.stop_containers(host.paths.socket)) == 40


def test_an_engine_that_is_gone_has_no_containers_to_stop(host: Host) -> None:
    assert docker_api.stop_containers(host.paths.socket) == ()


def test_alive_without_a_socket_is_unknown(host: Host) -> None:
    host.process(77)
    engine = host.observe()
    assert engine.installed
    assert engine.running is None
    assert engine.pids == (77,)


def test_a_socket_that_nobody_holds_is_nothing(host: Host) -> None:
    host.install()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(host.paths.socket)
    dead.close()
    assert host.observe().running is False


def test_an_engine_that_answers_runs_even_when_its_process_is_not_seen(host: Host, serve: Serve) -> None:
    host.install()
    serve()
    assert host.observe().running is True


def test_a_socket_without_docker_is_somebody_elses(host: Host, serve: Serve) -> None:
    fake = serve()
    assert host.observe().running is False
    assert fake.requests == []


def unit(name: str, load: str = "loaded", active: str = "inactive", *more: str) -> str:
    return "\n".join([f"Id={name}", f"LoadState={load}", f"ActiveState={active}", *more]) + "\n"


def test_systemds_socket_is_not_touched_for_it_would_start_docker(host: Host, serve: Serve) -> None:
    host.install()
    host.systemd(unit("docker.service") + "\n" + unit("docker.socket", "loaded", "active"))
    fake = serve()
    assert host.observe().running is False
    assert fake.requests == []


@pytest.mark.parametrize(
    ("comm", "exe", "found"),
    [
        ("dockerd", "", True),
        ("dockerd-current", "", True),
        ("exe", "/usr/bin/dockerd", True),
        ("exe", "/usr/bin/dockerd (deleted)", True),
        ("docker", "", False),
        ("docker-proxy", "/usr/bin/docker-proxy", False),
        ("bash", "/bin/bash", False),
    ],
)
def test_daemons_are_known_by_name_or_program(host: Host, comm: str, exe: str, *, found: bool) -> None:
    host.process(5, comm)
    if exe:
        (host.root / "proc/5/exe").symlink_to(exe)
    assert host.observe().pids == ((5,) if found else ())


def test_dead_and_foreign_daemons_do_not_count(host: Host) -> None:
    host.process(5, state="Z")
    host.process(6)
    for pid, namespace in (("self", "pid:[1]"), ("6", "pid:[2]"), ("8", "pid:[1]")):
        (host.root / f"proc/{pid}/ns").mkdir(parents=True)
        (host.root / f"proc/{pid}/ns/pid").symlink_to(namespace)
    host.process(8)
    host.process(10)
    (host.root / "proc/9").mkdir()
    assert host.observe().pids == (8, 10)


@pytest.mark.root
@pytest.mark.parametrize("flag", ["--version", "-v"])
def test_a_daemon_that_tells_its_version_and_ends_does_not_count(host: Host, flag: str) -> None:
    host.process(41, cmdline=f"/usr/sbin/dockerd\0{flag}\0")
    assert host.observe().running is False
    host.process(42, cmdline=f"/usr/sbin/dockerd\0-H\0fd://\0{flag}\0")
    assert (host.observe().running, host.observe().pids) == (None, (42,))


def test_rootless_daemons_do_not_count(host: Host) -> None:
    host.process(5)
    os.chown(host.root / "proc/5", 1000, 1000)
    assert host.observe().pids == ()


# Configuration


def test_the_text_of_daemon_json_is_taken_as_it_is(host: Host) -> None:
    text = '{\r\n\t"data-root": "/data/é"\r\n}'
    host.write("etc/docker/daemon.json", text)
    engine = host.observe()
    assert engine.config_text == text
    assert engine.config_problem == ""
    assert engine.data_root == "/data/é"


def test_another_file_can_be_named(host: Host) -> None:
    other = host.write("srv/other.json", '{"graph": "/g"}')
    engine = host.observe(str(other))
    assert (engine.config_path, engine.config_text, engine.data_root) == (str(other), '{"graph": "/g"}', "/g")


@pytest.mark.parametrize(
    ("data", "problem", "kept"),
    [
        (b"\xff\xfe{}", "is not UTF-8", False),
        (b" " * (1024**2 + 1), "longer than 1048576 bytes", False),
        (b"{", "daemon.json, line 1, column 2: expected a key", True),
        (b'{"a": 1, "a": 2}', "line 1, column 10", True),
        (b'{"data-root": "relative"}', "not an absolute path", True),
        (b"[]", "expected an object", True),
    ],
)
def test_a_file_that_cannot_be_edited_is_a_problem(host: Host, data: bytes, problem: str, *, kept: bool) -> None:
    host.write("etc/docker/daemon.json", data)
    engine = host.observe()
    assert problem in engine.config_problem
    assert engine.config_text == (data.decode() if kept else None)
    assert engine.data_root == host.paths.data_root


def test_folders_pipes_and_dangling_links_are_problems(host: Host) -> None:
    path = Path(host.paths.config)
    path.mkdir(parents=True)
    assert "not a regular file" in host.observe().config_problem
    path.rmdir()
    os.mkfifo(path)
    assert "not a regular file" in host.observe().config_problem
    path.unlink()
    path.symlink_to("nowhere")
    assert "leads nowhere" in host.observe().config_problem


@pytest.mark.parametrize("flag", ["--storage-opt\0dm.fs=xfs", "--storage-driver=overlay2", "-s\0overlay2"])
def test_flags_of_the_running_daemon_stand_against_the_file(host: Host, flag: str) -> None:
    host.process(5, cmdline=f"dockerd\0{flag}\0")
    assert host.observe().command == ("dockerd", *flag.split("\0"))


def test_flags_of_the_running_daemon_say_where_things_are(host: Host, serve: Serve) -> None:
    other = host.write("srv/other.json", "{}")
    socket_path = f"{host.short}/own.sock"
    serve(socket_path)
    host.process(
        5, cmdline=f"dockerd\0-H\0fd://\0--host=unix://{socket_path}\0--config-file\0{other}\0--data-root=/x\0"
    )
    engine = host.observe()
    assert engine.config_path == str(other)
    assert engine.config_problem == ""
    assert engine.running is True


def test_the_file_says_where_the_socket_is(host: Host, serve: Serve) -> None:
    serve(f"{host.short}/own.sock")
    host.write("etc/docker/daemon.json", json.dumps({"hosts": ["tcp://1.2.3.4:5", f"unix://{host.short}/own.sock"]}))
    host.process(5)
    assert host.observe().running is True


def test_debians_script_reads_its_defaults(host: Host) -> None:
    host.write("etc/default/docker", '# DOCKER_OPTS="--storage-driver=x"\nexport DOCKER_OPTS="--dns 8.8.8.8 -g /old"\n')
    assert host.observe().data_root == host.paths.data_root
    host.write("etc/init.d/docker", f". {host.root}/etc/default/$BASE\n$DOCKERD $DOCKER_OPTS\n")
    engine = host.observe()
    assert engine.data_root == "/old"
    assert engine.config_problem == ""
    assert [(file.kind, file.named) for file in engine.files] == [("script", True), ("environment", True)]


# Service

SERVICE = unit(
    "docker.service",
    "loaded",
    "active",
    "UnitFileState=enabled",
    "ExecStart={ path=/usr/bin/dockerd ; argv[]=/usr/bin/dockerd -H fd:// $OPTIONS ; ignore_errors=no ; pid=0 }",
)
SOCKET = unit("docker.socket", "loaded", "active")


def test_without_systemd_the_service_is_the_users_job(host: Host) -> None:
    assert host.observe().service == ServiceState(systemd=False)


def test_units_are_asked_for_in_one_command(host: Host) -> None:
    host.systemd(SERVICE + "\n" + SOCKET)
    expected = ServiceState(systemd=True, unit="docker.service", sockets=("docker.socket",), active=True, enabled=True)
    assert host.observe().service == expected
    assert host.ran == [(*SHOW, "--", "docker.service", "docker.socket")]


@pytest.mark.parametrize(
    ("state", "active"),
    [("inactive", False), ("failed", False), ("activating", None), ("deactivating", None), ("reloading", True)],
)
def test_a_unit_that_changes_is_unknown(host: Host, state: str, *, active: bool | None) -> None:
    host.systemd(unit("docker.service", "loaded", state) + "\n" + unit("docker.socket", "not-found"))
    service = host.observe().service
    assert service == ServiceState(systemd=True, unit="docker.service", active=active)


def test_systemd_without_the_unit(host: Host) -> None:
    host.systemd(unit("docker.service", "not-found") + "\n" + unit("docker.socket", "not-found"))
    assert host.observe().service == ServiceState(systemd=True, active=False)


@pytest.mark.parametrize("answer", [completed(1, "Id=docker.service\nActiveState=inactive"), UnavailableError("gone")])
def test_a_systemd_that_does_not_answer_is_unknown(host: Host, answer: CompletedRun | Exception) -> None:
    host.systemd("")
    host.answers[*SHOW, "--", "docker.service", "docker.socket"] = answer
    assert host.observe().service == ServiceState(systemd=True, active=None)


def test_the_files_of_the_unit_are_read_in_the_order_in_which_they_count(host: Host) -> None:
    fragment = host.write("lib/docker.service", "[Service]\nExecStart=/usr/bin/dockerd -H fd:// $OPTIONS\n")
    drop_in = host.write("etc/systemd/system/docker.service.d/a.conf", "[Service]\n")
    storage = host.write("etc/sysconfig/docker-storage", 'DOCKER_STORAGE_OPTIONS="--storage-opt dm.fs=xfs"\n')
    host.write("etc/default/docker", "DOCKER_OPTS=x\n")
    lines = f"EnvironmentFiles={storage} (ignore_errors=yes)\nEnvironmentFiles={host.root}/none (ignore_errors=yes)\n"
    lines += f"EnvironmentFiles={host.root}/needed (ignore_errors=no)\n"
    lines += f"FragmentPath={fragment}\nDropInPaths={drop_in}\nNeedDaemonReload=yes\n"
    host.systemd(SERVICE + lines + "\n" + SOCKET)
    engine = host.observe()
    assert [(file.path, file.kind, file.named) for file in engine.files] == [
        (str(fragment), "unit", True),
        (str(drop_in), "unit", True),
        (host.paths.override, "unit", True),
        (str(storage), "environment", True),
        (f"{host.root}/none", "environment", True),
        (f"{host.root}/needed", "environment", True),
        (f"{host.root}/etc/default/docker", "environment", False),
    ]
    assert [bool(file.problem) for file in engine.files] == [False, False, False, False, False, True, False]
    assert engine.service.needs_reload
    assert engine.command == ()


def test_a_file_that_is_named_twice_counts_where_it_is_named_last(host: Host) -> None:
    first = host.write("a", "OPTIONS=first\n")
    last = host.write("b", "OPTIONS=last\n")
    lines = "".join(f"EnvironmentFiles={file} (ignore_errors=yes)\n" for file in (first, last, first))
    lines += f"EnvironmentFiles={host.root}/c (ignore_errors=no)\nEnvironmentFiles={host.root}/c (ignore_errors=yes)\n"
    host.systemd(SERVICE + lines + "\n" + SOCKET)
    files = [file for file in host.observe().files if file.kind == "environment"]
    assert [file.path for file in files] == [str(last), str(first), f"{host.root}/c"]
    assert "does not exist" in files[2].problem


def test_words_of_systemd_that_no_unit_file_has_are_a_problem(host: Host) -> None:
    host.systemd(SERVICE.replace("$OPTIONS", "--storage-driver overlay2") + "\n" + SOCKET)
    assert "its unit files say otherwise" in host.observe().config_problem


def test_a_drop_in_that_systemd_has_not_read_yet_is_a_problem(host: Host) -> None:
    host.systemd(SERVICE + "NeedDaemonReload=yes\n\n" + SOCKET)
    assert "has not read" not in host.observe().config_problem
    host.write(
        "etc/systemd/system/docker.service.d/new.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -s vfs\n"
    )
    assert "new.conf yet (systemctl daemon-reload)" in host.observe().config_problem


@pytest.mark.parametrize("place", OTHER_DROP_INS)
def test_so_is_one_in_any_other_folder_of_drop_ins(host: Host, place: str) -> None:
    known = host.write("etc/systemd/system/docker.service.d/a.conf", "[Service]\n")
    host.systemd(f"{SERVICE}DropInPaths={known}\nNeedDaemonReload=yes\n\n{SOCKET}")
    # One with the name of another that counts more has no effect, and one that leads nowhere neither.
    host.write(f"{place}/a.conf", "[Service]\n")
    (host.root / place / "b.conf").symlink_to(os.devnull)
    assert "has not read" not in host.observe().config_problem
    new = host.write(f"{place}/c.conf", "[Service]\n")
    assert f"systemd has not read {new} yet" in host.observe().config_problem
    host.systemd(f"{SERVICE}DropInPaths={known} {new}\nNeedDaemonReload=yes\n\n{SOCKET}")
    assert "has not read" not in host.observe().config_problem


def test_commands_are_argument_vectors() -> None:
    units = ("docker.socket", "docker.service")
    assert systemd.stop_command(units) == ("systemctl", "stop", "--", "docker.socket", "docker.service")
    assert systemd.start_command(("-x",)) == ("systemctl", "start", "--", "-x")
    assert systemd.reset_failed_command(units)[:3] == ("systemctl", "reset-failed", "--")


# State


def record(host: Host, name: str, value: object) -> None:
    host.write(f"var/lib/docker/devicemapper/metadata/{name}", json.dumps(value))


def device(device_id: int, transaction: int) -> dict[str, object]:
    return {
        "device_id": device_id,
        "size": 10737418240,
        "transaction_id": transaction,
        "initialized": True,
        "deleted": False,
    }


@pytest.fixture
def used(host: Host) -> Host:
    record(host, "deviceset-metadata", {"next_device_id": 5, "BaseDeviceUUID": "u-1", "BaseDeviceFilesystem": "xfs"})
    record(host, "transaction-metadata", {"open_transaction_id": 4, "device_hash": "ab", "device_id": 2})
    record(host, "base", device(1, 1))
    record(host, "ab", device(2, 4))
    host.write("var/lib/docker/image/devicemapper/repositories.json", "{}")
    return host


def test_state_is_read_whole(used: Host) -> None:
    used.write("var/lib/docker/devicemapper/metadata/.tmp123", "{")
    used.write("var/lib/docker/devicemapper/metadata/json.migrated", "{")
    engine = used.observe()
    assert engine.state_problem == ""
    state = engine.state
    assert state is not None
    assert state.path == f"{used.paths.data_root}/devicemapper"
    assert state.base_device_uuid == "u-1"
    assert state.base_size_bytes == 10737418240
    assert state.transaction_id == 4
    assert state.devices == (
        EngineDevice("ab", 2, 10737418240, 4),
        EngineDevice("base", 1, 10737418240, 1),
    )
    assert state.loop_files == ()
    assert state.related == (f"{used.paths.data_root}/image/devicemapper",)
    assert state.obstacle == ""


def test_an_empty_folder_is_no_state(host: Host) -> None:
    (host.root / "var/lib/docker/devicemapper").mkdir(parents=True)
    assert host.observe().state is None


def test_a_folder_without_records_is_state(host: Host) -> None:
    (host.root / "var/lib/docker/devicemapper/mnt").mkdir(parents=True)
    state = host.observe().state
    assert state is not None
    assert (state.devices, state.base_size_bytes, state.transaction_id, state.related) == ((), None, None, ())


def test_loop_files_are_seen(host: Host) -> None:
    data = host.write("var/lib/docker/devicemapper/devicemapper/data", "")
    state = host.observe().state
    assert state is not None
    assert state.loop_files == (str(data),)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x", '{"device_id": 1, "size": 1, "transaction_id": 1}' + " " * 65536),
        ("y", b"\xff"),
    ],
)
def test_a_record_that_cannot_be_read_makes_the_state_unknown(used: Host, name: str, text: str | bytes) -> None:
    used.write(f"var/lib/docker/devicemapper/metadata/{name}", text)
    engine = used.observe()
    assert engine.state is None
    assert f"/devicemapper/metadata/{name} cannot be read as Docker's record" in engine.state_problem


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("base", ""),
        ("ab", '{"device_id":2,"si'),
        ("ab", "{}"),
        ("deviceset-metadata", "\0\0\0"),
        ("transaction-metadata", '{"open_transaction_id": "4"}'),
        ("transaction-metadata", '{"open_transaction_id": -'),
        ("transaction-metadata", '{"x": ' + "[" * 9999),
    ],
)
def test_a_damaged_record_is_named_and_the_others_are_read(used: Host, name: str, text: str) -> None:
    used.write(f"var/lib/docker/devicemapper/metadata/{name}", text)
    state = used.observe().state
    assert state is not None
    assert f"/devicemapper/metadata/{name} cannot be read as Docker's record" in state.damage
    assert len(state.devices) >= 1


def test_what_is_beside_the_records_is_seen(used: Host) -> None:
    bare = used.observe().state
    assert bare is not None
    assert (bare.other_drivers, bare.containers_folder, bare.made_by_engine, bare.loop_data_bytes) == (
        (),
        "",
        False,
        None,
    )
    used.write("var/lib/docker/overlay2/l", "")
    (used.root / "var/lib/docker/zfs").mkdir()
    used.write("var/lib/docker/containers/x", "")
    used.write("var/lib/docker/devicemapper/setup-config.json", "{}")
    used.write("var/lib/docker/devicemapper/devicemapper/data", "")
    state = used.observe().state
    assert state is not None
    assert (state.other_drivers, state.containers_folder) == (("overlay2",), f"{used.root}/var/lib/docker/containers")
    assert (state.made_by_engine, state.loop_data_bytes) == (True, 0)


def test_the_newest_record_tells_when_the_state_was_written_and_the_transaction_does_not(used: Host) -> None:
    metadata = used.root / "var/lib/docker/devicemapper/metadata"
    for place, path in enumerate(sorted(metadata.iterdir())):
        os.utime(path, (1000 + place, 1000 + place))
    newest = max(path.stat().st_mtime for path in metadata.iterdir() if path.name != "transaction-metadata")
    os.utime(metadata / "transaction-metadata", (5000, 5000))
    state = used.observe().state
    assert state is not None
    assert state.written_at == newest


def test_a_record_behind_a_link_is_not_followed(used: Host) -> None:
    (used.root / "var/lib/docker/devicemapper/metadata/cd").symlink_to("base")
    assert "/metadata/cd cannot be read" in used.observe().state_problem


def test_a_file_in_place_of_the_folder_is_unknown(host: Host) -> None:
    host.write("var/lib/docker/devicemapper", "")
    engine = host.observe()
    assert engine.state is None
    assert "Not a directory" in engine.state_problem


def test_a_linked_data_root_is_resolved(used: Host) -> None:
    (used.root / "var/lib/docker").rename(used.root / "big")
    (used.root / "var/lib/docker").symlink_to(used.root / "big")
    state = used.observe().state
    assert state is not None
    assert state.path == f"{used.root}/big/devicemapper"
    assert state.obstacle == ""


@pytest.mark.parametrize("name", ["devicemapper", "image", "image/devicemapper"])
def test_a_link_below_the_data_root_is_an_obstacle(used: Host, name: str) -> None:
    place = used.root / "var/lib/docker" / name
    place.rename(used.root / "elsewhere")
    place.symlink_to(used.root / "elsewhere")
    state = used.observe().state
    assert state is not None
    assert state.obstacle == f"{place} is a symbolic link"


@pytest.mark.parametrize("pid", ["self", "1"])
@pytest.mark.parametrize("point", ["devicemapper", "devicemapper/mnt/x", "image/devicemapper/y"])
def test_a_mount_is_an_obstacle(used: Host, pid: str, point: str) -> None:
    place = f"{used.paths.data_root}/{point}"
    used.write(f"proc/{pid}/mountinfo", f"30 22 254:0 /x {place} rw - ext4 /dev/vda rw\n")
    state = used.observe().state
    assert state is not None
    assert state.obstacle == f"{place} is a mount point"


def test_unknown_mounts_make_the_state_unknown(used: Host) -> None:
    (used.root / "proc/self/mountinfo").unlink()
    engine = used.observe()
    assert engine.state is None
    assert "mountinfo" in engine.state_problem


def test_state_of_a_user_namespace_is_unknown(host: Host) -> None:
    host.write("var/lib/docker/100000.100000/devicemapper/metadata/base", "{}")
    assert "userns-remap" in host.observe().state_problem
