"""The daemon: the main loop, capture, recording, status, pause, prompts, jobs, and its life under systemd."""
