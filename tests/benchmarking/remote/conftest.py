"""A device for the tests: this machine behind a real sshd of its own, with a home of its own."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rescompress.artifact import SCHEMA, Manifest, write_artifact
from rescompress.backends import Images
from rescompress.benchmarking import method, remote
from rescompress.benchmarking.candidates import Candidates, gathered
from rescompress.benchmarking.method import Plan
from rescompress.spec import ModelSpec, Preprocessing

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
MODEL = ModelSpec("cifar", "by hand", 10, Preprocessing(16, 16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
SIZES = ["n", 3, 16, 16]
QUICK = Plan(batch=2, threads=1, blocks=2, block_seconds=0.01)


@dataclass
class Host:
    """A running sshd.

    Attributes:
        address: what ``--device`` takes.
        home: cache and lock of the device; there is a space in its path.
        config: the client's ``ssh -F``.
    """

    address: str
    home: Path
    config: Path
    process: subprocess.Popen[bytes]

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "rescompress"

    @property
    def lock(self) -> Path:
        return self.home / "tmp" / "rescompress.lock"

    def appeared(self, name: str) -> Path:
        """Wait for a file in the folder of the only job."""
        for _ in range(1200):
            found = list((self.cache / "jobs").glob(f"*/{name}"))
            if found:
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"{name} never appeared")

    def left(self) -> set[str]:
        """What is left behind beside the cache's files."""
        return {str(path.relative_to(self.home)) for path in self.home.rglob("*")} - {
            *("tmp", "bin", ".cache", ".cache/rescompress", ".cache/rescompress/files"),
            *(f".cache/rescompress/files/{path.name}" for path in (self.cache / "files").glob("*")),
        }

    def cut(self) -> int:
        """Kill every session's process, as when a cable is pulled; the daemon itself goes on."""
        sessions = children(self.process.pid)
        for session in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(session, signal.SIGKILL)
        return len(sessions)


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if SSHD is None or shutil.which("ssh") is None or not Path("/proc").exists():
        pytest.skip("sshd or ssh is not installed here: apt-get install openssh-server openssh-client")
    base = tmp_path_factory.mktemp("a device")
    for name in ("key", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", base / name], check=True)
    (base / "authorized").write_text((base / "key.pub").read_text())
    (base / "authorized").chmod(0o600)
    home = base / "home"
    for name in ("tmp", "bin"):
        (home / name).mkdir(parents=True)
    port = free_port()
    (base / "sshd").write_text(server(base, home, port))
    (base / "known").write_text(f"[127.0.0.1]:{port} " + (base / "host.pub").read_text())
    (base / "config").write_text(client(base))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks itself in before anybody has logged in
    with (base / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", base / "sshd"], stderr=log)
    found = Host(f"ssh://{getpass.getuser()}@127.0.0.1:{port}", home, base / "config", process)
    try:
        wait_for(port, process, base / "log")
        yield found
    finally:
        process.terminate()
        process.wait()


def server(base: Path, home: Path, port: int) -> str:
    path = f"{home}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return "\n".join([
        f"Port {port}", "ListenAddress 127.0.0.1", f'HostKey "{base}/host"', f'AuthorizedKeysFile "{base}/authorized"',
        f'PidFile "{base}/pid"', "StrictModes no", "PermitRootLogin yes", "PasswordAuthentication no", "UsePAM no",
        "KbdInteractiveAuthentication no", "MaxStartups 100",
        f'SetEnv "HOME={home}" "TMPDIR={home}/tmp" "PATH={path}" "OMP_NUM_THREADS=1"',
    ]) + "\n"  # fmt: skip


def client(base: Path) -> str:
    return "\n".join([
        f'IdentityFile "{base}/key"', "IdentitiesOnly yes", f'UserKnownHostsFile "{base}/known"',
        "StrictHostKeyChecking yes", "GlobalKnownHostsFile /dev/null",
    ]) + "\n"  # fmt: skip


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        if process.poll() is not None:
            pytest.skip(f"sshd doesn't start here: {log.read_text().strip()[-200:]}")
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.skip("sshd doesn't listen here.")


@pytest.fixture(scope="module")
def reached(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The device, with a client of this module's own before it; warm-ups are short, and looks frequent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "_WARM_UP_CAP_SECONDS", 0.1)
        patch.setattr(method, "_WINDOW_SECONDS", 0.01)
        patch.setattr(remote, "PAUSE_S", 0.2)
        patch.setenv("RESCOMPRESS_SSH_CONFIG", str(host.config))
        patch.setenv("RESCOMPRESS_CACHE", str(tmp_path_factory.mktemp("client")))
        patch.delenv("RESCOMPRESS_DEVICE_PYTHON", raising=False)
        yield host


def network(folder: Path, label: str, convolutions: int) -> Path:
    """An artifact that was written by hand: so many convolutions, a mean over the picture, ten logits."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(convolutions)
    nodes, weights, value, channels = [], [], "images", 3
    for i in range(convolutions):
        w = rng.normal(size=(16, channels, 3, 3)).astype(np.float32) / 8
        weights.append(numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        value, channels = f"r{i}", 16
    weights.append(numpy_helper.from_array(rng.normal(size=(16, 10)).astype(np.float32), "w"))
    nodes += [helper.make_node("ReduceMean", [value, "axes"], ["mean"], keepdims=0)]
    nodes += [helper.make_node("MatMul", ["mean", "w"], ["logits"])]
    weights.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("images", SIZES), ("logits", ["n", 10]))
    ]
    graph = helper.make_graph(nodes, label, ends[:1], ends[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    def fill(empty: Path) -> str:
        onnx.save(proto, str(empty / "model.onnx"))
        return "model.onnx"

    return artifact_of(folder, "onnxruntime", label, fill)


def artifact_of(folder: Path, backend: str, label: str, fill: Callable[[Path], str]) -> Path:
    def describe(entry: str, files: dict[str, str]) -> Manifest:
        return Manifest(SCHEMA, "0", backend, label, "fp32", entry, files, MODEL, "", "", "")

    return write_artifact(folder, fill, describe).folder


@dataclass
class Made:
    """What a device made of a benchmark."""

    launches: list[method.Launch]
    place: remote.Remote


def made(host: Host, candidates: Candidates, count: int, seed: int) -> Made:
    with remote.opened(host.address, candidates, QUICK, count, seed) as there:
        return Made([there.launch() for _ in range(count)], there)


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks in ONNX, the second some four times as large; there is a space in their paths."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    base = tmp_path_factory.mktemp("two networks")
    return [network(base / name, name, count) for name, count in (("small", 2), ("large", 7))]


@pytest.fixture(scope="session")
def pictures() -> Images:
    return np.random.default_rng(0).normal(size=(20, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="session")
def candidates(networks, pictures) -> Candidates:
    return gathered(networks, pictures, QUICK.batch)


@pytest.fixture(scope="session")
def small(networks, pictures) -> Candidates:
    """The small network alone, and its copy."""
    return gathered(networks[:1], pictures, QUICK.batch)
