"""Codes and items as files for other programs."""
