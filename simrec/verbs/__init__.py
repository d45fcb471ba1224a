"""What the command line, the Python API and the web page all call: one function for each thing that simrec does."""
