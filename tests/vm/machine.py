"""A machine with Debian's 6.1 kernel, emulated by QEMU: the kernel fetched, an initramfs, the boot.

Invariant: the guest's root is this machine's root, read-only, with a layer in the guest's memory above it. So all programs
and sources are there, and it writes nothing of ours but the run's own folder, which is its /run/results.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ductwork" / "vm"
ACCELERATOR = os.environ.get("DUCTWORK_VM_ACCEL", "tcg")
"""`kvm` is a matter of seconds where it works. It is not tried unasked: /dev/kvm can be there, and the guest hang."""
BUSYBOX = Path("/bin/busybox")  # Debian's busybox-static
GUEST = REPOSITORY / "tests" / "vm" / "guest.sh"

_INIT = """#!/bin/busybox sh
for module in {modules}; do busybox insmod "/$module"; done
busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
busybox mount -t tmpfs -o size=75% layer /layer
busybox mkdir /layer/upper /layer/work
busybox mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /root
exec busybox switch_root /root /bin/sh {guest}
"""
"""`cache=loose` halves the time that Python takes to start: the guest asks for each file once."""

_QUICK = "mitigations=off init_on_alloc=0 lsm= audit=0 nowatchdog no_timer_check"
"""What protects nothing in an emulated machine, and costs; and a check that fails where the host is busy."""


class VmError(Exception):
    """The machine cannot be built here: what is missing, and what to do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    version: str
    tree: Path

    @property
    def image(self) -> Path:
        return self.tree / "boot" / f"vmlinuz-{self.version}"

    @property
    def modules(self) -> Path:
        return self.tree / "lib" / "modules" / self.version


def fetch_kernel() -> Kernel:
    """Debian's newest 6.1 that apt knows; unpacked into the cache, never installed. What is there already is not fetched."""
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("depmod", "kmod"), (BUSYBOX, "busybox-static")):
        if not shutil.which(program):
            raise VmError(f"no {program}: script/setup --test installs {package}")
    there = sorted(CACHE.glob("6.*/"), key=lambda tree: tree.stat().st_mtime)
    version = _offered([]) or (there[-1].name if there else "")
    if not version or not (CACHE / version).exists():
        version = _download()
    return Kernel(version, CACHE / version)


def _offered(options: Sequence[str]) -> str:
    argv = ["apt-cache", *options, "depends", "linux-image-amd64"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()
    return next((word.removeprefix("linux-image-") for word in said if word.startswith("linux-image-6.1.")), "")


def _download() -> str:
    """By the lists of packages that are here; where these are missing or old, by fresh ones of our own (without root)."""
    CACHE.mkdir(parents=True, exist_ok=True)
    fresh = [f"-oDir::State::Lists={CACHE}/lists", f"-oDir::Cache={CACHE}/apt", "-oAPT::Sandbox::User="]
    (CACHE / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (CACHE / "apt" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        for options in (["-oAPT::Sandbox::User="], fresh):
            if options == fresh:
                subprocess.run(["apt-get", *options, "-qq", "update"], check=False)
            version = _offered(options)
            argv = ["apt-get", *options, "-qq", "download", f"linux-image-{version}"]
            if version and subprocess.run(argv, cwd=folder, check=False).returncode == 0:
                _unpack(Path(folder), version)
                return version
    raise VmError(
        "apt has no kernel 6.1 (linux-image-amd64 of Debian 12), or cannot fetch it: see above; "
        f"or unpack one to {CACHE}/VERSION with dpkg -x and depmod -b"
    )


def _unpack(folder: Path, version: str) -> None:
    tree = folder / "tree"
    subprocess.run(["dpkg", "-x", str(next(folder.glob("*.deb"))), str(tree)], check=True)
    subprocess.run(["depmod", "-b", str(tree), version], check=True)
    if not (CACHE / version).exists():  # another run may have been quicker
        tree.rename(CACHE / version)


class Machine:
    """Runs `command` as root, in the repository, and ends. `folder`: of the run, shared by its machines; `number`: from 1.

    The command finds the folder as /run/results and its number as DUCTWORK_VM. `disk`: a file that is its /dev/vda.
    """

    def __init__(self, number: int, kernel: Kernel, folder: Path, command: Sequence[str], disk: Path | None = None) -> None:
        self.log = folder / f"{number}.log"
        self._console = folder / f"{number}.console"
        self._status = folder / f"{number}.status"
        image = folder / f"{number}.initramfs"
        image.write_bytes(b"".join(_initramfs(kernel, command)))
        argv = [
            *_qemu(kernel, folder),
            *(["-drive", f"file={disk},format=raw,if=virtio"] if disk else []),
            "-serial",
            f"file:{self._console}",
            "-initrd",
            str(image),
        ]
        argv += ["-append", f"console=ttyS0 loglevel=4 panic=-1 {_QUICK} DUCTWORK_VM={number}"]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def status(self) -> int | None:
        """The command's exit code; None where the machine ended before it."""
        return int(self._status.read_text()) if self._status.exists() else None

    def last_words(self) -> str:
        """The end of what its kernel said."""
        said = self._console.read_text(errors="replace") if self._console.exists() else ""
        return "\n".join(said.splitlines()[-40:])


def _qemu(kernel: Kernel, folder: Path) -> Iterator[str]:
    yield from ("qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none", "-machine", "q35", "-cpu", "max")
    yield from ("-accel", ACCELERATOR, "-m", "2G", "-kernel", str(kernel.image))
    for tag, path, readonly in (("host", Path("/"), "on"), ("results", folder, "off")):
        yield from ("-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap,readonly={readonly}")
        yield from ("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")


def _initramfs(kernel: Kernel, command: Sequence[str]) -> Iterator[bytes]:
    """A cpio archive (newc) with busybox, the modules that it takes to see this machine's root, and /init."""
    modules = _in_order(kernel, "virtio_pci", "9pnet_virtio", "9p", "overlay")
    guest = shlex.join([str(GUEST), str(REPOSITORY), str(kernel.modules), *command])
    init = _INIT.format(modules=" ".join(path.name for path in modules), guest=guest)
    for folder in ("bin", "host", "layer", "root"):
        yield _entry(folder, stat.S_IFDIR | 0o755)
    yield _entry("bin/busybox", stat.S_IFREG | 0o755, BUSYBOX.read_bytes())
    yield _entry("init", stat.S_IFREG | 0o755, init.encode())
    for path in modules:
        yield _entry(path.name, stat.S_IFREG | 0o644, path.read_bytes())
    yield _entry("TRAILER!!!", 0)


def _in_order(kernel: Kernel, *names: str) -> list[Path]:
    """The modules, each after those that it needs."""
    argv = ["modprobe", "-d", str(kernel.tree), "-S", kernel.version, "--show-depends", "-a", *names]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    return [Path(path) for path in dict.fromkeys(line.split()[1] for line in lines if line.startswith("insmod "))]


def _entry(name: str, mode: int, content: bytes = b"") -> bytes:
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % number for number in numbers) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
