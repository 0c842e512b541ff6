"""What spans networks: NAT and the packet filter."""
