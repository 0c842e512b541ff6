"""The kernel's network state over netlink: our own codec, standard library alone."""
