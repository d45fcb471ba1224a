"""The web page and its API: HTTP around the same verbs that the command line calls. It needs the extra `serve`."""
