"""Writes codes and items to files for other programs, and reads them back."""
