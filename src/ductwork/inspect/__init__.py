"""What is there: `ps`."""
