"""What of `tests/netns` also runs on Debian's kernel, and why. Emulation is slow: some twenty seconds for each test that
applies a site a few times."""

HEART: dict[str, str] = {
    "tests/netns/test_backend_contract.py": "what each kind of resource is to the kernel, made, read, changed, removed",
    "tests/netns/test_sysctl.py": "files below /proc/sys that 6.1 has and has not",
    "tests/netns/test_nftables.py::test_what_is_applied_is_read_back": "the packet filter of 6.1",
    "tests/netns/test_engine.py::test_the_command_does_the_same_twice_and_takes_it_back": "a whole apply and destroy",
    "tests/netns/test_engine.py::test_all_is_as_before": "destroy and undo, with a default route parked",
}
