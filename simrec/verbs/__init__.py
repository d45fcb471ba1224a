"""What every face of simrec calls: one function for each thing that it does."""
