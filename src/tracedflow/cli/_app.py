"""The typer application: every command by its name, in the order of the help."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from .. import __version__
from . import _doctor, _metrics, _recorded, _running, _source
from ._wrong import Calm

app = typer.Typer(
    name="tracedflow",
    cls=Calm,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        build = "its hot modules compiled" if find_spec("tracedflow__mypyc") else "pure Python"
        typer.echo(f"tracedflow {__version__}, {build}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Look at workflows and at what their runs did. Programs write trace files where TRACEDFLOW_TRACE_FILE says so."""


for command in (_recorded.show, _recorded.why, _recorded.path, _recorded.diff, _recorded.report):
    app.command()(command)
app.command()(_source.check)
app.command()(_source.draw)
app.command()(_running.run)
app.command()(_source.dashboards)
app.command()(_metrics.metrics)
app.command()(_doctor.doctor)
