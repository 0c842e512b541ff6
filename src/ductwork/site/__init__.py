"""The site file: its schema, its loading with line numbers, and the frozen records the rest of the code sees."""
