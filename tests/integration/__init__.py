"""Several real parts together: engines, servers, encrypted files, sound servers, browsers, processes."""
