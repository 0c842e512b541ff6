"""Network drivers, one file each: from the site file to resources."""
