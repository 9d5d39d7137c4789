"""What can be typed: each function declares a command's options, calls the part that does it, and prints what comes back."""
