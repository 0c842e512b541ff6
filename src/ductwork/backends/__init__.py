"""What reads and changes the system, one file or folder per interface."""
