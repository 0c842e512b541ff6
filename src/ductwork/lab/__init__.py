"""The site file rehearsed in network namespaces."""
