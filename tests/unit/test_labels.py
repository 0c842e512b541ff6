"""Labels, and pipework's variables, to requests: what is permitted, what is refused and in which words."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ductwork import ipam
from ductwork.engine import AttachRequest
from ductwork.errors import LabelError
from ductwork.naming import mac_address
from ductwork.plugins.labels import requests
from ductwork.runtimes import Tags
from ductwork.services import ports
from ductwork.site import values
from ductwork.site.load import load_text
from ductwork.site.model import AddressRange, PublishedPort

SITE = load_text(
    """
name: office
labels:
  lan: [192.168.1.64/27, "fd00:1::40-fd00:1::5f"]
  wire: true
  pods: {addresses: true, ports: [8000-8499, 8500-8999, 4000-6000/udp, 80]}
  vlan10: true
  vlan20: true
  apart:
networks:
  lan: {driver: bridge, bridge: br0, uplink: eth0, subnets: [192.168.1.0/24, "fd00:1::/64"], gateway: 192.168.1.254}
  wire: {driver: bridge}
  pods: {driver: bridge, subnet: 10.1.1.0/24}
  vlan10: {driver: macvlan, parent: eth1, vlan: 10, subnet: 10.10.0.0/24, allocate: 10.10.0.128/25}
  vlan20: {driver: macvlan, parent: eth1, vlan: 20, subnet: 10.20.0.0/24}
  apart: {driver: bridge, bridge: br7, subnet: 10.7.0.0/24, internal: true}
  secret: {driver: bridge, bridge: br9, subnet: 10.9.0.0/24}
attachments:
  - {container: "docker:db", network: pods, address: 10.1.1.9, mac: "02:00:00:00:00:09"}
  - {container: web, network: apart, interface: lan0}
ports:
  - {listen: 8088, to: "docker:db:80"}
  - {listen: "127.0.0.1:8090-8092", to: "docker:db:90"}
"""
)
TWO_HOSTS = load_text(
    """
labels: [pods, own]
hosts: {alpha: {address: 10.99.0.1/24}, beta: {address: 10.99.0.2/24}}
networks:
  pods: {driver: vxlan, vni: 42, subnet: 10.1.1.0/24}
  own: {driver: vxlan, vni: 43, subnet: 10.2.1.0/24, allocate: {alpha: 10.2.1.0/25}}
"""
)
ID = "0123456789abcdef" * 4


def tags(labels: dict[str, str], variables: dict[str, str] | None = None) -> Tags:
    return Tags("web_3", ID, "webhost", labels, variables or {})


def asked(container: str = "docker:web_3", **labels: str) -> tuple[AttachRequest, ...]:
    return requests(container, tags({f"ductwork.{key.replace('_', '.')}": value for key, value in labels.items()}), SITE, "")


def by_variable(*commands: str, **labels: str) -> tuple[AttachRequest, ...]:
    variables = {f"x_pipework_cmd_{number}": command for number, command in enumerate(commands)}
    return requests("docker:web_3", tags(labels, variables), SITE, "")


def request(network: str, **more: Any) -> AttachRequest:
    if "addresses" in more:
        more["addresses"] = tuple(map(ip_address, more["addresses"]))
    return AttachRequest("docker:web_3", network, **more)


def test_labels() -> None:
    assert asked(networks="pods, lan") == (request("lan"), request("pods"))
    assert asked(lan_address="192.168.1.65,fd00:1::41") == (request("lan", addresses=["192.168.1.65", "fd00:1::41"]),)
    assert asked(pods_interface="x0", pods_mac="seed:web", pods_gateway="false") == (
        request("pods", interface="x0", mac=mac_address("seed", "web"), gateway=False),
    )
    assert asked(pods_gateway="10.1.1.7", networks="wire") == (
        request("pods", gateway=ip_address("10.1.1.7")),
        request("wire"),
    )
    assert asked() == ()


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"networks": ""}, "is no list of networks"),
        ({"networks": "lan,,pods"}, "is no list of networks"),
        ({"networks": "secret"}, "network `secret` is not one that labels may use"),
        ({"networks": "elsewhere"}, "network `elsewhere` is not in the site file"),
        ({"network": "pods"}, "did you mean `networks`?"),
        ({"pods_adress": "10.1.1.5"}, "did you mean `address`?"),
        ({"pods_interface": "a\ud800"}, "has half a character"),
        ({"pods_address": "10.1.1.9"}, "is taken by the site file"),
        ({"pods_address": "10.1.1.1"}, "is taken by the site file"),
        ({"pods_address": "10.1.1.255"}, "is the broadcast address"),
        ({"pods_address": "10.1.2.1"}, "is not in network `pods`"),
        ({"pods_address": "10.1.1.5/24"}, "has a prefix length"),
        ({"pods_address": "dhcp"}, "not in this version"),
        ({"pods_address": "10.1.1.5,10.1.1.5"}, "is asked for twice"),
        ({"pods_address": ",".join(["10.1.1.5"] * 40)}, "40 addresses"),
        ({"wire_address": "10.1.1.5"}, "is not in network `wire`"),
        ({"lan_address": "192.168.1.63"}, "is not one that labels may ask for"),
        ({"lan_address": "192.168.1.96"}, "permits 192.168.1.64-192.168.1.95"),
        ({"lan_address": "fd00:1::3f"}, "is not one that labels may ask for"),
        ({"networks": "vlan20"}, "it asks for no address"),
        ({"pods_gateway": "10.2.2.2"}, "is not in network `pods`"),
        ({"pods_gateway": "yes"}, "is text"),
        ({"pods_gateway": "10.1.1.5", "pods_address": "10.1.1.5"}, "is its own address"),
        ({"pods_gateway": "10.1.1.5", "lan_gateway": "192.168.1.9"}, "a second default gateway"),
        ({"pods_interface": "x0", "lan_interface": "x0"}, "is asked for twice"),
        ({"pods_interface": "a/b"}, "is no interface name"),
        ({"pods_mac": "02:00:00:00:00:09"}, "is another container's"),
        ({"pods_mac": "00:16:3e:00:00:01"}, "is not a locally administered address"),
        ({"pods_mac": "01:00:00:00:00:01"}, "of a single interface"),
        ({"pods_address": "1" * 2000}, "are the most"),
        ({"lan_ports": "80"}, "port `80/tcp` is not one that labels may ask for: `labels` in the site file permits none"),
        ({"pods_ports": "81"}, "permits 8000-8499, 8500-8999, 4000-6000/udp, 80 of network pods"),
        ({"pods_ports": "5353"}, "port `5353/tcp` is not one"),
        ({"pods_ports": "80/sctp"}, "port `80/sctp` is not one"),
        ({"pods_ports": "8400-9000:80"}, "port `8400-9000/tcp` is not one"),
        ({"pods_ports": "10.1.1.1:22:80"}, "port `10.1.1.1:22/tcp` is not one"),
        ({"pods_ports": "8088:80"}, "is taken: by the site file it leads to docker:db"),
        ({"pods_ports": "127.0.0.1:8088:80"}, "port `127.0.0.1:8088/tcp` of this host is taken: by the site file"),
        ({"pods_ports": "8080-8090:80"}, "is taken: by the site file it leads to docker:db"),
        ({"pods_ports": "0.0.0.0:8092"}, "is taken: by the site file"),
        ({"pods_ports": "[fd00::1]:8080:80"}, "reaches the container by IPv4 alone"),
        ({"pods_ports": "8080,8081:80,127.0.0.1:8080"}, "port `127.0.0.1:8080/tcp` is asked for twice"),
        ({"pods_ports": ",".join(["8080"] * 65)}, "65 ports: 64 are the most"),
        ({"pods_ports": "8080:80-81"}, "1 ports lead to 2"),
        ({"pods_ports": ""}, "`` is no port"),
        ({"pods_ports": "[::1]:8080/sctp"}, "does not relay sctp at `::1`"),
        ({"pods_ports": "8080/ftp"}, "`ftp` is no protocol of ports"),
        ({"pods_ports": "::1:8080"}, "`::1` is no place to listen"),
        ({"pods_ports": "fd00::1:8080:80"}, "an IPv6 address is in brackets"),
        ({"pods_ports": "example.com:8080:80"}, "is no place to listen"),
        ({"pods_ports": "224.0.0.1:8080:80"}, "is no address that others can reach"),
        ({"pods_ports": "8080:80:80"}, "is no place to listen"),
        ({"pods_ports": "٣:80"}, "`٣` is no port"),
        ({"pods_mac": "x\x1b[31m\ny"}, "`x\\x1b[31m\\ny` is no MAC address"),
    ],
)
def test_what_is_refused(labels: dict[str, str], told: str) -> None:
    with pytest.raises(LabelError) as caught:
        asked(**labels)
    text = f"{caught.value.message}: {caught.value.hint}"
    assert told in text and text.isprintable() and len(text) < 500


def test_it_is_all_or_nothing() -> None:
    with pytest.raises(LabelError, match=r"lan.adress: there is no such label \(and 1 more mistake\)"):
        asked(networks="pods", lan_adress="1", pods_mac="2")


def published(
    first: int, last: int, to: int, protocol: str = "tcp", address: str = "", *, to_one: bool = True
) -> PublishedPort:
    where = ip_address(address) if address else None
    return PublishedPort("", "", "", "", protocol, first, last, to, to_one, where)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "port"),
    [
        ("8080", published(8080, 8080, 8080)),
        ("8080:80", published(8080, 8080, 80)),
        ("8080:80/tcp", published(8080, 8080, 80)),
        ("5353:53/udp", published(5353, 5353, 53, "udp")),
        ("127.0.0.1:5353:53/udp", published(5353, 5353, 53, "udp", "127.0.0.1")),
        ("127.0.0.1:8080", published(8080, 8080, 8080, "tcp", "127.0.0.1")),
        ("[::1]:8080", published(8080, 8080, 8080, "tcp", "::1")),
        ("[::1]:8080:80", published(8080, 8080, 80, "tcp", "::1")),
        ("0.0.0.0:8080:80", published(8080, 8080, 80, "tcp", "0.0.0.0")),
        ("8400-8600", published(8400, 8600, 8400, to_one=False)),
        ("8400-8600:80", published(8400, 8600, 80)),
        ("8400-8402:1-3", published(8400, 8402, 1, to_one=False)),
        ("127.0.0.1:8400-8402:1-3", published(8400, 8402, 1, "tcp", "127.0.0.1", to_one=False)),
    ],
)
def test_ports(written: str, port: PublishedPort) -> None:
    assert asked(pods_ports=written) == (request("pods", ports=(port,)),)


def test_several_ports() -> None:
    found = asked(pods_ports="8080:80, 5353:53/udp,8081:81", pods_address="10.1.1.7")
    wanted = (published(8080, 8080, 80), published(5353, 5353, 53, "udp"), published(8081, 8081, 81))
    assert found == (request("pods", addresses=["10.1.1.7"], ports=wanted),)
    [found_beside] = asked(pods_ports="127.0.0.1:8080,127.0.0.2:8080,8080/udp".replace("8080/udp", "5000/udp"))
    assert len(found_beside.ports) == 3


def test_ports_where_the_host_has_no_way() -> None:
    site = load_text(
        """
labels: {lan: {ports: 80}}
hosts: {alpha: {address: 10.99.0.1/24}, beta: {address: 10.99.0.2/24}}
networks:
  lan: {driver: macvlan, parent: eth0, subnet: 10.1.1.0/24, host_access: {alpha: 10.1.1.1}}
"""
    )
    written = tags({"ductwork.lan.ports": "80", "ductwork.lan.address": "10.1.1.9"})
    assert requests("docker:x", written, site, "alpha")
    with pytest.raises(LabelError, match="this host has no way to the container in network `lan`"):
        requests("docker:x", written, site, "beta")


def test_a_tunnels_port() -> None:
    text = "labels: {pods: {ports: [4000-5000/udp, 4789]}}\nhosts: {a: {address: 10.99.0.1}, b: {address: 10.99.0.2}}\n"
    site = load_text(text + "networks: {pods: {driver: vxlan, vni: 42, subnet: 10.1.1.0/24}}\n")
    found = tags({"ductwork.pods.address": "10.1.1.9", "ductwork.pods.ports": "4789"})
    assert requests("docker:x", found, site, "a")
    with pytest.raises(LabelError, match="it is the tunnel's of network `pods`"):
        requests("docker:x", tags({**found.labels, "ductwork.pods.ports": "4700-4800/udp"}), site, "a")


def test_so_many_ports_and_no_more() -> None:
    """Addresses of 127.0.0.0/8 are as many as one likes."""
    site = load_text("labels: {n: {ports: 1-65535}}\nnetworks: {n: {driver: bridge, subnet: 10.1.1.0/24}}\n")
    assert requests("docker:x", tags({"ductwork.n.ports": "1-65535"}), site, "")
    with pytest.raises(LabelError, match="65536 ports"):
        requests("docker:x", tags({"ductwork.n.ports": "127.0.0.1:1-65535,127.0.0.2:1"}), site, "")


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("8080", "8080", True),
        ("8080", "8081", False),
        ("8080", "8080/udp", False),
        ("8080-8090", "8085", True),
        ("8080", "127.0.0.1:8080", True),
        ("0.0.0.0:8080", "127.0.0.1:8080", True),
        ("0.0.0.0:8080", "[::1]:8080", False),
        ("[::]:8080", "[::1]:8080", True),
        ("127.0.0.1:8080", "127.0.0.2:8080", False),
        ("127.0.0.1:8080", "[::1]:8080", False),
        ("127.0.0.1:8080", "127.0.0.1:8080", True),
        ("0.0.0.0:8080", "[::]:8080", False),
    ],
)
def test_which_ports_meet(one: str, other: str, meet: bool) -> None:
    first, second = values.published(one), values.published(other)
    assert (ports.meets(first, second), ports.meets(second, first)) == (meet, meet)


def test_what_the_site_file_has_of_the_container() -> None:
    with pytest.raises(LabelError, match="plugs it into network `pods` already"):
        asked("docker:db", networks="pods")
    with pytest.raises(LabelError, match="its `lan0` is the site file's"):
        asked("docker:web", pods_interface="lan0")


def test_what_the_site_file_has_of_the_container_by_its_id() -> None:
    text = "labels: [pods]\nnetworks: {{pods: {{driver: bridge, subnet: 10.1.1.0/24}}}}\nattachments:\n"
    for reference in (f"docker:{ID[:12]}", ID):
        site = load_text(text.format() + f"  - {{container: '{reference}', network: pods, interface: x0}}\n")
        with pytest.raises(LabelError, match="plugs it into network `pods` already"):
            requests("docker:web_3", tags({"ductwork.networks": "pods"}), site, "")
    for reference in (f"podman:{ID[:12]}", f"docker:{ID[1:14]}"):
        site = load_text(text.format() + f"  - {{container: '{reference}', network: pods, interface: x0}}\n")
        assert requests("docker:web_3", tags({"ductwork.networks": "pods"}), site, "")


def test_several_hosts() -> None:
    """Two hosts never give the same address."""
    with pytest.raises(LabelError, match="network `pods` is on several hosts"):
        requests("docker:x", tags({"ductwork.networks": "pods"}), TWO_HOSTS, "alpha")
    assert requests("docker:x", tags({"ductwork.pods.address": "10.1.1.9"}), TWO_HOSTS, "alpha")
    assert requests("docker:x", tags({"ductwork.networks": "own"}), TWO_HOSTS, "alpha")
    with pytest.raises(LabelError, match="on several hosts"):
        requests("docker:x", tags({"ductwork.networks": "own"}), TWO_HOSTS, "beta")
    with pytest.raises(LabelError, match=r"`10\.2\.1\.9` is given out on host alpha"):
        requests("docker:x", tags({"ductwork.own.address": "10.2.1.9"}), TWO_HOSTS, "beta")
    assert requests("docker:x", tags({"ductwork.own.address": "10.2.1.9"}), TWO_HOSTS, "alpha")


def test_a_network_that_labels_may_use_is_on_every_host() -> None:
    assert TWO_HOSTS.hosts_of("pods") == ("alpha", "beta")
    assert SITE.hosts_of("lan") == ("",) and SITE.hosts_of("secret") == ()


@pytest.mark.parametrize(
    ("command", "network", "more"),
    [
        ("br0 @CONTAINER_NAME@ 192.168.1.65/24", "lan", {"addresses": ["192.168.1.65"], "gateway": False}),
        ("eth0 web_3 192.168.1.65/24", "lan", {"addresses": ["192.168.1.65"], "gateway": False}),
        (f"pods {ID} 10.1.1.5/24", "pods", {"addresses": ["10.1.1.5"], "gateway": False}),
        (f"pods {ID[:12]} 10.1.1.5/24", "pods", {"addresses": ["10.1.1.5"], "gateway": False}),
        (
            "br0 -i lan0 -a 4 @CONTAINER_ID@ 192.168.1.6@INSTANCE@".replace("@INSTANCE@", "5") + "/24@192.168.1.254",
            "lan",
            {"addresses": ["192.168.1.65"], "interface": "lan0", "gateway": ip_address("192.168.1.254")},
        ),
        (
            "pods web_3 10.1.1.1@INSTANCE@/24 U:myhost.foo.com",
            "pods",
            {"addresses": ["10.1.1.13"], "gateway": False, "mac": "02:72:6c:cd:9b:8d"},
        ),
        (
            "eth1 web_3 10.20.0.5/24 02:00:00:00:00:05@20",
            "vlan20",
            {"addresses": ["10.20.0.5"], "gateway": False, "mac": "02:00:00:00:00:05"},
        ),
        ("eth1 web_3 10.10.0.5/24 @10", "vlan10", {"addresses": ["10.10.0.5"], "gateway": False}),
        ("dw-wire web_3 0/0", "wire", {"gateway": False}),
    ],
)
def test_pipework_variables(command: str, network: str, more: dict[str, Any]) -> None:
    assert by_variable(command) == (request(network, **{"interface": "eth1", **more}),)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("", "no command line"),
        ("br0", "no command line"),
        ("br9 web_3 10.9.0.5/24", "is no network that labels may use"),
        ("br0 other 192.168.1.65/24", "is another container"),
        ("br0 web_3 192.168.1.65", "maybe `192.168.1.65/24`?"),
        ("br0 web_3 192.168.1.65/16", "is not the subnet's prefix length"),
        ("br0 web_3 192.168.1.5/24", "is not one that labels may ask for"),
        ("br0 web_3 0/0", "`0/0` is no address"),
        ("br0 web_3 dhcp", "by DHCP"),
        ("br0 web_3 udhcpc-f", "by DHCP"),
        ("br0 -l veth7 web_3 192.168.1.65/24", "`-l` names the host's end"),
        ("br0 -a 6 web_3 192.168.1.65/24", "is not IPv6"),
        ("br0 -a x web_3 192.168.1.65/24", "is no family"),
        ("eth1 web_3 10.10.0.5/24", "VLAN none of `eth1` is no network"),
        ("eth1 web_3 10.10.0.5/24 @30", "VLAN `30` of `eth1`"),
        ("br0 web_3 192.168.1.65/24 @5", "VLAN `5` of `br0`"),
        ("br0 web_3 192.168.1.65/24 nonsense", "is no MAC address"),
        ("br0 web_3 192.168.1.65/24 U:x extra", "no command line"),
        ("route web_3 add default via 10.1.1.1", "`route` cannot be asked for"),
        ("tc web_3 qdisc add", "`tc` cannot be asked for"),
        ("--direct-phys eth7 web_3 10.1.1.5/24", "`--direct-phys` cannot be asked for"),
        ("mac:02:00:00:00:00:01 web_3 10.1.1.5/24", "is no network that labels may use"),
        ("br0 web_3 192.168.1.65/24 ; reboot", "no command line"),
        ("br0 @COMPOSE_PROJECT_NAME@ 192.168.1.65/24", "has nothing for `@COMPOSE_PROJECT_NAME@`"),
    ],
)
def test_what_is_refused_of_pipework(command: str, told: str) -> None:
    with pytest.raises(LabelError) as caught:
        by_variable(command)
    text = f"{caught.value.message}: {caught.value.hint}"
    assert told in text and text.isprintable()


def test_variables_are_read_in_the_order_of_their_names() -> None:
    labels = {"com.docker.compose.container-number": "7", "com.docker.compose.project": "shop"}
    found = by_variable("pods web_3 10.1.1.@INSTANCE@/24", "dw-wire -i eth2 @CONTAINER_NAME@ 0/0", **labels)
    assert [(each.network, each.interface) for each in found] == [("pods", "eth1"), ("wire", "eth2")]
    assert found[0].addresses == (ip_address("10.1.1.7"),)
    with pytest.raises(LabelError, match="interface `eth1` is asked for twice"):
        by_variable("pods web_3 10.1.1.7/24", "dw-wire web_3 0/0")


def test_macros_are_no_way_in() -> None:
    written = Tags("web", ID, "x 10.9.0.1/24", {"com.docker.compose.project": "a b"}, {"pipework_cmd": "br0 web @HOSTNAME@"})
    with pytest.raises(LabelError, match=r"`@HOSTNAME@` is `x 10\.9\.0\.1/24`"):
        requests("docker:web", written, SITE, "")


WORDS = st.sampled_from(
    [
        *("lan", "pods", "wire", "vlan10", "secret", "nowhere", "br0", "eth0", "web_3", "docker:db", "10.1.1.9", "10.1.1.7"),
        *("192.168.1.65", "192.168.1.1", "192.168.1.254", "fd00:1::41", "fd00:1::1", "0/0", "true", "false", "seed:", "eth1"),
        *(
            "seed:x",
            "02:00:00:00:00:09",
            "U:x",
            "@",
            "@10",
            "-i",
            "-a",
            "-l",
            "4",
            "/24",
            "..",
            "\n",
            "\x1b[31m",
            "\ud800",
            "%s",
        ),
        *("80", "8080", ":", ":80", "127.0.0.1:", "[::1]:", "-8090", "/udp", "4789", "22"),
        *("@CONTAINER_NAME@", "@INSTANCE@", "../../etc/passwd", "$(reboot)", "٣", "a" * 300, "1" * 5000, "\0", ",", " "),
    ]
)
TEXTS = st.one_of(
    WORDS, st.text(max_size=20), st.lists(WORDS, max_size=6).map("".join), st.lists(WORDS, max_size=6).map(" ".join)
)
ITS_KEYS = st.sampled_from(["address", "interface", "mac", "gateway", "ports", "x"])
KEYS = st.one_of(
    st.tuples(st.sampled_from(list(SITE.networks)), ITS_KEYS).map(".".join),
    st.just("networks"),
    TEXTS,
)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(KEYS.map("ductwork.{}".format), TEXTS, max_size=5),
    st.dictionaries(TEXTS.map("{}pipework_cmd".format), TEXTS, max_size=2),
    st.one_of(st.just("docker:web_3"), TEXTS),
)
def test_whatever_is_written(labels: dict[str, str], variables: dict[str, str], container: str) -> None:
    """Never anything but a refusal in one line, or what the site permits."""
    try:
        found = requests(container, Tags("web_3", ID, "", labels, variables), SITE, "")
    except LabelError as error:
        assert f"{error.message}{error.hint}".isprintable() and len(f"{error.message}{error.hint}") < 700
        return
    taken = {name: ipam.reserved(network, SITE) for name, network in SITE.networks.items()}
    for each in found:
        assert each.container == container and each.network in SITE.labels
        for address in each.addresses:
            assert SITE.networks[each.network].subnet_of(address) and address not in taken[each.network]
            ranges = SITE.labels[each.network].addresses
            assert not ranges or ipam.holds(ranges, address)
        for port in each.ports:
            assert SITE.labels[each.network].permits(port.protocol, port.first, port.last)
            assert not any(ports.meets(port, other) for other in SITE.ports)


def test_ranges_that_labels_are_given_addresses_of() -> None:
    def ranges(name: str, *spans: str) -> tuple[str, ...]:
        its = tuple(AddressRange(*map(ip_address, span.split("-"))) for span in spans)
        network = ipam.narrowed(SITE.networks[name], "", its)
        return tuple(f"{each.first}-{each.last}" for own in ipam.pools(network, "").values() for each in own)

    assert ranges("lan", "192.168.1.64-192.168.1.95") == ("192.168.1.64-192.168.1.95",)
    assert ranges("pods", "10.1.1.64-10.1.1.95") == ("10.1.1.64-10.1.1.95",)
    assert ranges("vlan10", "10.10.0.100-10.10.0.140") == ("10.10.0.128-10.10.0.140",)
    assert ranges("vlan10", "10.10.0.100-10.10.0.120") == ()
    assert ranges("lan") == ()
