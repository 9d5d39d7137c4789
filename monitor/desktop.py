"""Shows a notification on the person's desktop, through the `notify-send` that desktops bring along.

What is shown may be read by whoever looks at the screen, locked or not: callers pass nothing personal.
"""

import shutil
import subprocess

from model.errors import DesktopError

_PROGRAM = "notify-send"
_TIMEOUT_S = 10.0


def find_notifier() -> str:
    """The path of what shows notifications. Raises DesktopError when it is not installed."""
    found = shutil.which(_PROGRAM)
    if found is None:
        raise DesktopError(f"notifications cannot be shown: {_PROGRAM} is not installed (on Debian and Ubuntu: libnotify-bin)")
    return found


def notify(title: str, text: str) -> None:
    """Show a notification. Raises DesktopError where there is no desktop to show it."""
    command = [find_notifier(), "--app-name=emosllm-monitor", title, text]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DesktopError(f"a notification could not be shown: {_PROGRAM} failed ({error})") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise DesktopError(f"a notification could not be shown: {said}; is the monitor part of a desktop session?")
