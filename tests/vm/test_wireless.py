"""A wireless NIC, which only a kernel with mac80211_hwsim can pretend to have."""

from __future__ import annotations

from collections.abc import Callable

from conftest import inside, run, sh, until

from ductwork.backends.nic import NicReader


def test_a_wireless_nic_is_known(netns: Callable[[str], str]) -> None:
    """Also in a namespace, where /sys would not tell: it shows the one that it was mounted in."""
    run("modprobe", "mac80211_hwsim", "radios=1")
    try:
        assert until(lambda: "wlan0" in run("ip", "-br", "link"))
        found = NicReader().read(["wlan0", "lo"])
        assert found["wlan0"].wireless
        assert not found["wlan0"].virtual
        assert not found["lo"].wireless
        elsewhere = netns("elsewhere")
        sh(elsewhere, "ip", "link", "add", "name", "wlan0", "type", "dummy")
        assert not inside(elsewhere, lambda: NicReader().read(["wlan0"]))["wlan0"].wireless
    finally:
        run("modprobe", "-r", "mac80211_hwsim")
