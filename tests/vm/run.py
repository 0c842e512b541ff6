"""Boots Debian's 6.1 kernel under QEMU and runs pytest in it.

    PYTHON tests/vm/run.py [PYTEST ARGUMENTS…]      default: tests/vm

Invariant: the guest writes nothing of this machine but the run's own folder of results: its root is this machine's,
read-only, with a layer in its memory above.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ductwork" / "vm"
INSIDE = REPOSITORY / "tests" / "vm" / "inside.sh"


def kernel() -> Path:
    """The newest Debian 6.1 kernel, downloaded once and unpacked."""
    CACHE.mkdir(parents=True, exist_ok=True)
    depends = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=True)
    package = next(word for word in depends.stdout.split() if word.startswith("linux-image-6."))
    version = package.removeprefix("linux-image-")
    tree = CACHE / version
    if not tree.exists():
        fresh = CACHE / f"{version}.{os.getpid()}"
        fresh.mkdir()
        subprocess.run(["apt-get", "download", package], cwd=fresh, check=True)
        subprocess.run(["dpkg", "-x", str(next(fresh.glob("*.deb"))), "."], cwd=fresh, check=True)
        subprocess.run(["depmod", "-b", ".", version], cwd=fresh, check=True)
        fresh.rename(tree)
    return tree / "boot" / f"vmlinuz-{version}"


def main(arguments: list[str]) -> int:
    image = kernel()
    out = CACHE / f"run-{os.getpid()}"
    out.mkdir()
    options = [*("-fsdev", "local,id=host,path=/,security_model=none,multidevs=remap,readonly=on")]
    options += ["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]
    inside = shlex.join(["sh", str(INSIDE), str(out), str(REPOSITORY), sys.executable, *(arguments or ["tests/vm"])])
    vng = [str(Path(sys.executable).parent / "vng"), "-v", "--disable-kvm", "--force-9p", "--cpus", "1", "--memory", "2G"]
    vng += [f"--qemu-opts={' '.join(options)}", "--append=mitigations=off", "--run", str(image), "--user", "root", "--rw"]
    vng += ["--", inside]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    with open(out / "console.log", "wb") as console:
        machine = subprocess.Popen(
            ["script", "-qec", shlex.join(vng), "/dev/null"],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env={**os.environ, "PATH": path},
        )
        shown = 0
        log = out / "log"
        while True:
            ended = machine.poll() is not None
            if log.exists():
                text = log.read_bytes()[shown:]
                shown += len(text)
                sys.stdout.buffer.write(text)
                sys.stdout.flush()
            if ended:
                break
            time.sleep(0.3)
    status = out / "status"
    if not status.exists():
        print(f"the machine did not come up, or died: see {out}/console.log")
        return 3
    return int(status.read_text())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
