"""What makes libc and Python keep their memory in large pages; both read it from the environment before anything of ours runs."""

# A microphone's buffer, and a segment after seconds of silence, find processor caches that know nothing of the process any more; to look
# up a thousand small pages again then takes longer than the work itself, on virtual machines above all. See bench/STUDIES.md.
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "PYTHONMALLOC": "malloc"}
