"""Sources of pictures: finding them by name (load.py), and those that come with simrec."""
