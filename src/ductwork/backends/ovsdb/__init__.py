"""Open vSwitch, by its database."""
