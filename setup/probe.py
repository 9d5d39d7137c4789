"""Tells setup/bootstrap.sh whether a Python can carry the environment, and what it lacks.

Prints five lines: verdict ("ok" or the reason against it), version, executable, "pip" if it can make a venv with pip,
"headers" if C extensions can be built. Written for any Python, so that an old one gets an answer and no syntax error.
"""

import os
import platform
import sys
import sysconfig


def against():
    """Why vLLM's and PyTorch's wheels do not fit this Python, or "ok"."""
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        return "is Python " + version
    if platform.python_implementation() != "CPython":
        return "is " + platform.python_implementation() + ", not CPython"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "is a free-threaded build of Python " + version
    if sys.maxsize < 2**32:
        return "is a 32-bit Python"
    return "ok"


def main():
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401

        pip = "pip"
    except ImportError:
        pip = ""
    # Within another virtual environment the interpreter below it is meant: that one may be deleted at any time.
    executable = getattr(sys, "_base_executable", None) or sys.executable
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")  # noqa: PTH118
    print(against())
    print("%d.%d" % sys.version_info[:2])  # noqa: UP031
    print(executable)
    print(pip)
    print("headers" if os.path.exists(header) else "")  # noqa: PTH110


main()
