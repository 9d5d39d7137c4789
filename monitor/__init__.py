"""The daemon: capture, segmentation, judging, timeline, summaries, reports."""
