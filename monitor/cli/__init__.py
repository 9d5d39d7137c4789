"""The command line, one file per group of commands: each function declares options, calls one library function and prints the result."""
