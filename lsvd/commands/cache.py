"""Show or empty the cache of what can be computed again: drawn trajectories, samples, renderings, single edits.

Its size is limited to $LSVD_CACHE_GB, in GB of 10^9 bytes (2): the least recently used files leave first.
"""

import argparse
import sys
from collections import defaultdict
from datetime import datetime

from lsvd.storage import cache, files


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "action", nargs="?", choices=("show", "empty"), default="show", help="show what is there, or remove it (show)"
    )


def run(options: argparse.Namespace) -> None:
    """Print a line for each folder, or remove all files that no running process holds."""
    if options.action == "empty":
        removed = cache.trim(0)
        files.tidy(cache.root(), deep=True)
        left = cache.entries()
        sys.stdout.write(f"removed {_size(removed)}")
        sys.stdout.write(f"; {_size(left)} in use by a running process stay\n" if left else "\n")
        return
    folders = defaultdict(list)
    for entry in (listing := cache.entries()):
        folders[entry.path.parent.relative_to(cache.root())].append(entry)
    for folder, members in sorted(folders.items()):
        last = datetime.fromtimestamp(max(entry.used for entry in members) / 1e9)
        sys.stdout.write(f"{folder}: {_size(members)}, last used {last:%Y-%m-%d %H:%M}\n")
    sys.stdout.write(f"{cache.root()}: {_size(listing)}, limit {cache.limit() / cache.GB:g} GB ({cache.VARIABLE})\n")


def _size(listing: list[cache.Entry]) -> str:
    return f"{len(listing)} files, {sum(entry.size for entry in listing) / 1e6:.1f} MB"
