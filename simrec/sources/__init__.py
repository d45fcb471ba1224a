"""Sources of pictures: names to sources in load.py, and those that simrec brings."""
