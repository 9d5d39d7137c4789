"""What `doctor` looks at: everything the monitor needs, is trusted with, and must not do."""
