"""What of `tests/netns` also runs on Debian's kernel, and why. Emulation is slow: a test that applies a site a few times
takes ten to twenty seconds."""

_N = "tests/netns"
HEART: dict[str, str] = {
    f"{_N}/test_backend_contract.py": "what each kind of resource is to this kernel: made, read, changed, removed, refused",
    f"{_N}/test_contract_foreign.py": "others' addresses and routes, with all that they carry",
    f"{_N}/test_contract_limits.py": "rates, by what 6.1 has for them",
    f"{_N}/test_contract_parents.py": "VLANs, macvlan, ipvlan and ifb, which other kernels lack",
    f"{_N}/test_contract_ports.py": "VLANs of ports, on bridges that filter",
    f"{_N}/test_sysctl.py": "files of /proc/sys that 6.1 has, and those that it has not",
    f"{_N}/test_kernel_features.py": "what this kernel is said to have",
    f"{_N}/test_nftables.py::test_what_is_applied_is_read_back": "the packet filter of 6.1 takes our rules",
    f"{_N}/test_kernel_model.py::test_predicted_and_real_are_the_same[0]": "what this kernel does by itself is predicted",
    f"{_N}/test_commands.py::test_examples[d3-macvlan-vlans-alpha]": "commands for VLANs of a NIC, which other kernels lack",
    f"{_N}/test_engine.py::test_the_command_does_the_same_twice_and_takes_it_back": "the whole, as a person would call it",
    f"{_N}/test_engine.py::test_all_is_as_before[undo]": "undo, beside a default route that is parked",
    f"{_N}/test_engine.py::test_neighbours_learn_a_new_mac_unasked[in place]": "announced by an entry in use (ADR 1)",
    f"{_N}/test_engine.py::test_nothing_keeps_a_dead_container_alive": "namespaces die",
    f"{_N}/test_nat.py::test_masquerade": "forwarding of both families: 6.1 has no force_forwarding",
    f"{_N}/test_nat.py::test_a_router_stays_a_router[6]": "the same where others had it on before",
    f"{_N}/test_nat.py::test_beside_docker[docker last-4]": "iptables beside nftables",
    f"{_N}/test_nat.py::test_gateway_stays_out_of_the_tunnel[0-6]": "rules of the family bridge",
    f"{_N}/test_antispoof.py::test_what_is_not_its_own_goes_nowhere": "raw payload in sets, tags, as this kernel shows them",
    f"{_N}/test_antispoof.py::test_frames_for_the_bridge_itself_teach_it_nothing[14]": "what the packet filter never sees",
    f"{_N}/test_isolated.py::test_on_a_lan[br_netfilter]": "frames that are filtered twice",
}
