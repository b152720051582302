"""Files, caches and threads: how things are computed and stored, never what."""
