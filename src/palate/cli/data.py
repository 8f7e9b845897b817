"""`palate data`: each of its commands is loaded when it is used."""

from __future__ import annotations

from cyclopts import App

data = App(
    name="data", help="Inspect a table, write large tables as a data set on disk, list and download known data sets."
)
_COMMANDS = {
    "inspect": ("inspect", "Show what a table holds: counts, sparsity, ratings, time span, and every fault."),
    "ingest": ("ingest", "Write tables of any size as a data set on disk, in little memory."),
    "onboard": ("onboard", "List the items to ask a new user about."),
    "sources": ("sources", "List the data sets that palate knows by name."),
    "protocols": ("onboard", "List the published evaluation protocols for --protocol of train, tune and compare."),
    "fetch": ("sources", "Download a data set into the cache and show what it holds."),
}
"""Command -> the file it is in, and what it does."""
for _name, (_file, _help) in _COMMANDS.items():
    data.command(f"palate.cli.{_file}:{_name}", name=_name, help=_help)
