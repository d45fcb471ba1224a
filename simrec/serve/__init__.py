"""The web page and its API: HTTP around the verbs that the command line calls too. Needs the extra `serve`."""
