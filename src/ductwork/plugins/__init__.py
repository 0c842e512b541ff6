"""Other programs' ways of asking, each translated to the engine's requests. Pure functions."""
