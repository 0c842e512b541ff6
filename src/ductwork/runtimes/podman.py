"""Podman's containers, by the part of its API that is Docker's.

Invariant: only a service that answers is asked (`podman system service`, or its socket unit). Podman's containers run on
without one; then nobody tells of them, and they are waiting.

Other than Docker's, found with 4.3.1: a list does not say which network a container is on; a removal is told as `remove`;
deaths are told as `die`, but only to who asks for `died`. A container of a pod has the namespace of the pod's infra
container, as one with `--network container:NAME` has. A rootless container's belongs to a user namespace; root may enter.
"""

from __future__ import annotations

from typing import ClassVar

from ductwork.runtimes.docker import DockerRuntime


class PodmanRuntime(DockerRuntime):
    """`url`: as Docker's; without it the environment's, else the socket of root's service."""

    name: ClassVar[str] = "podman"
    variable: ClassVar[str] = "CONTAINER_HOST"
    default_url: ClassVar[str] = "unix:///run/podman/podman.sock"
