"""Keeps one host's part of a site true: waits for events, and has the engine see to what differs."""
