"""Tests that need what this machine's kernel may lack. They run in a machine with Debian's 6.1 (README.md says how).

`from conftest import sh, ping, inside` and the fixture `netns` are those of tests/netns; its modules (host, docker_host)
can be imported too.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

NETNS = Path(__file__).parents[1] / "netns"

sys.path.insert(0, str(NETNS))
import docker_host  # noqa: E402

docker_host.START_SECONDS = 120.0  # fifteen are usual in an emulated machine
_spec = importlib.util.spec_from_file_location("netns_conftest", NETNS / "conftest.py")
assert _spec
assert _spec.loader
_netns = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_netns)
netns, run, sh, ping, inside, until = _netns.netns, _netns.run, _netns.sh, _netns.ping, _netns.inside, _netns.until

collect_ignore_glob = ["*_test.py"] if os.environ.get("DUCTWORK_VM") else ["test_*.py"]
