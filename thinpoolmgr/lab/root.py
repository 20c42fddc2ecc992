"""The cached root: a Debian tree with Docker, containerd and this package's libraries, made once with mmdebstrap."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from thinpoolmgr.errors import CommandFailedError, RefusedError, UnavailableError
from thinpoolmgr.lab.guestfiles import ROOT_PYTHON_LIBRARY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SUITE: Final = "bookworm"
PACKAGES: Final = (
    "busybox-static",
    "containerd",
    # Docker's cgroup driver and systemd-run talk to systemd over it
    "dbus",
    "dmsetup",
    "docker.io",
    "e2fsprogs",
    "fdisk",
    "iproute2",
    "kmod",
    "lvm2",
    "procps",
    "python3",
    # kills a command inside one chosen system call
    "strace",
    "systemd",
    "systemd-sysv",
    "thin-provisioning-tools",
    "udev",
    "util-linux",
    "xfsprogs",
)
# what this package imports, and what its lab tests need, for the tree's own Python 3.11
PYTHON_PACKAGES: Final = (
    "click",
    "hypothesis",
    "jsonschema",
    "msgspec",
    "prometheus-client",
    "pytest",
    "pyudev",
    "rich",
    "sh",
    "structlog",
    "systemd-watchdog",
    "tenacity",
    "tomlkit",
)
_RECIPE: Final = 1
_EXCLUDED: Final = ("doc", "info", "lintian", "locale", "man")
_SUITES: Final = frozenset({SUITE, f"{SUITE}-updates", f"{SUITE}-security"})
# how this host reaches its archive; none of it belongs in the recipe
_APT_OPTIONS: Final = (
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-Date ",
    "Acquire::Check-Valid-Until ",
    "Acquire::Retries ",
)


def cache_folder() -> Path:
    """Return the folder that keeps the roots: `thinpoolmgr` in the user's cache folder."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path.home() / ".cache"
    return base / "thinpoolmgr"


def root_path() -> Path:
    """Return where the cached root is or will be; its name changes with the recipe."""
    recipe = json.dumps([_RECIPE, SUITE, PACKAGES, PYTHON_PACKAGES, _EXCLUDED])
    return cache_folder() / f"root-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def ensure_root() -> Path:
    """Return the cached root, made now if it is not there (about a minute); progress goes to standard error.

    Raises:
        CommandFailedError: a command of the recipe failed.
        RefusedError: what an earlier, killed making left still has something mounted in it.
        UnavailableError: a tool is missing.

    """
    root = root_path()
    if root.is_dir():
        return root
    _check_host()
    root.parent.mkdir(parents=True, exist_ok=True)
    with _lock(root.parent / "root.lock"):
        if root.is_dir():
            return root
        work = root.with_name(f"{root.name}.making")
        _remove(work)
        work.mkdir(mode=0o755)
        try:
            _make(work)
            (work / "tree").rename(root)
        finally:
            _remove(work)
    return root


def mmdebstrap_command(
    target: Path,
    sources: Iterable[str],
    apt_options: Iterable[str],
    *,
    is_root: bool,
    packages: Iterable[str] = PACKAGES,
) -> tuple[str, ...]:
    """Return the command that makes the tree, as a folder for root and as a tar file for an ordinary user."""
    return (
        "mmdebstrap",
        f"--mode={'root' if is_root else 'unshare'}",
        f"--format={'directory' if is_root else 'tar'}",
        "--variant=apt",
        f"--include={','.join(packages)}",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _EXCLUDED),
        *(f"--aptopt={option}" for option in apt_options),
        SUITE,
        str(target),
        *sources,
    )


def pip_command(pip: Iterable[str], target: Path) -> tuple[str, ...]:
    """Return the command that puts the Python libraries of the tree's Python, not of the calling one, into a folder."""
    return (
        *pip,
        "install",
        "--quiet",
        "--quiet",
        "--disable-pip-version-check",
        "--no-warn-conflicts",
        f"--target={target}",
        "--python-version=3.11",
        "--implementation=cp",
        "--abi=cp311",
        "--abi=abi3",
        "--abi=none",
        "--only-binary=:all:",
        *PYTHON_PACKAGES,
    )


def debian_lines(text: str) -> tuple[str, ...]:
    """Return the lines of a one-line-style sources file that serve the suite's `main`."""
    lines = [line.strip() for line in text.splitlines()]
    return tuple(line for line in lines if _is_debian_line(line))


def debian_stanzas(text: str) -> tuple[str, ...]:
    """Return the stanzas of a deb822-style sources file that serve the suite's `main`."""
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    stanzas = (stanza.strip() for stanza in kept.split("\n\n"))
    return tuple(stanza for stanza in stanzas if _is_debian_stanza(_fields(stanza)))


def proxy_options(dump: str) -> tuple[str, ...]:
    """Return the options of `apt-config dump` that say how this host reaches its archive."""
    options = (line.rstrip(";") for line in dump.splitlines() if line.startswith(_APT_OPTIONS))
    return tuple(option for option in options if not option.endswith('""'))


def _is_debian_line(line: str) -> bool:
    words = line.split()
    if words[:1] != ["deb"]:
        return False
    if "[" in line:
        words = ["deb", *line.partition("]")[2].split()]
    return len(words) > 3 and words[2] in _SUITES and "main" in words[3:]


def _is_debian_stanza(fields: Mapping[str, str]) -> bool:
    suites = set(fields.get("suites", "").split())
    return (
        "deb" in fields.get("types", "").split()
        and bool(suites)
        and suites <= _SUITES
        and "main" in fields.get("components", "").split()
        and fields.get("enabled", "yes") != "no"
    )


def _fields(stanza: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in stanza.splitlines() if not line.startswith((" ", "\t")))
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _check_host() -> None:
    if shutil.which("mmdebstrap") is None:
        raise UnavailableError(
            "The lab's Docker root cannot be made.",
            details="missing: mmdebstrap",
            resolution="apt-get install --no-install-recommends mmdebstrap debian-archive-keyring",
        )
    if os.geteuid() != 0 and shutil.which("newuidmap") is None:
        raise UnavailableError(
            "An ordinary user cannot make the lab's Docker root here.",
            details="missing: newuidmap",
            resolution="apt-get install --no-install-recommends uidmap, and a range for the user in /etc/subuid",
        )


def _make(work: Path) -> None:
    """Make the tree as `work/tree`."""
    tree = work / "tree"
    is_root = os.geteuid() == 0
    _say("making the Docker root in the cache folder, once; this takes about a minute")
    target = tree if is_root else work / "tree.tar"
    _run(mmdebstrap_command(target, host_sources(work), host_proxy_options(), is_root=is_root))
    if not is_root:
        # Extracted without its owners: a guest of this user reads through this user's eyes.
        tree.mkdir(mode=0o755)
        _run(("tar", "--extract", f"--file={target}", f"--directory={tree}", "--no-same-owner", "--exclude=./dev/*"))
        target.unlink()
    _say("installing the Python libraries")
    install_libraries(tree)


def install_libraries(tree: Path) -> None:
    """Put the Python libraries into a tree.

    Raises:
        CommandFailedError: pip failed.
        UnavailableError: there is no pip.

    """
    _run(pip_command(_pip(), tree / ROOT_PYTHON_LIBRARY.relative_to("/")))


def host_sources(work: Path) -> tuple[str, ...]:
    """Return the host's own apt sources for the suite, as arguments; none makes mmdebstrap use Debian's."""
    apt = Path("/etc/apt")
    lists = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]
    lines = [line for path in lists if path.is_file() for line in debian_lines(path.read_text(encoding="utf-8"))]
    files = sorted((apt / "sources.list.d").glob("*.sources"))
    stanzas = [stanza for path in files for stanza in debian_stanzas(path.read_text(encoding="utf-8"))]
    if not stanzas:
        return tuple(lines)
    collected = work / "debian.sources"
    collected.write_text("\n\n".join(stanzas) + "\n", encoding="utf-8")
    return (*lines, str(collected))


def host_proxy_options() -> tuple[str, ...]:
    """Return the options with which this host reaches its archive."""
    if shutil.which("apt-config") is None:
        return ()
    return proxy_options(subprocess.run(("apt-config", "dump"), check=False, capture_output=True, text=True).stdout)


def _pip() -> tuple[str, ...]:
    if importlib.util.find_spec("pip") is not None:
        return (sys.executable, "-m", "pip")
    if (pip := shutil.which("pip3")) is not None:
        return (pip,)
    raise UnavailableError("The lab's libraries cannot be installed.", "missing: pip", "apt-get install python3-pip")


def _run(command: tuple[str, ...]) -> None:
    """Run a command of the recipe; what it says is progress, so it goes to standard error.

    Raises:
        CommandFailedError: it failed.

    """
    code = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno()).returncode
    if code:
        raise CommandFailedError(
            f"Making the lab's Docker root failed: {command[0]} ended with {code}.",
            details=" ".join(command),
            resolution="Its messages are above. Nothing is kept of it: run the same command again.",
        )


def _say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)  # noqa: T201


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another process that makes the Docker root")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove(folder: Path) -> None:
    """Remove what a making left.

    Raises:
        RefusedError: something is mounted below it, which a removal would empty.

    """
    if not folder.exists():
        return
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    below = [path for path in mounted if Path(path).is_relative_to(folder)]
    if below:
        raise RefusedError("The lab's unfinished root has something mounted in it.", "\n".join(below), "Unmount it.")
    shutil.rmtree(folder)
