"""``check``: what this machine's kernel has and lacks, and what each missing thing costs."""

import click

from netsim.cli.base import NetsimCommand, output_option
from netsim.cli.output import print_json, print_table


@click.command(
    cls=NetsimCommand,
    cluster_option=False,
    examples="""
  netsim check
  netsim check -o json
""",
)
@output_option("json")
def check(output: str | None) -> int:
    """Show what this machine has of what netsim uses, and what each missing thing costs.

    Exit status 1 if something is missing without which no cluster runs.
    """
    from netsim.kernel.features import read_features  # tries things out: 0.1 s

    states = read_features()
    missing = [state for state in states if not state.present]
    needed = [state for state in missing if state.required]
    if output == "json":
        print_json(
            [
                {
                    "name": state.name,
                    "what": state.feature.what,
                    "option": state.feature.option,
                    "present": state.present,
                    "required": state.required,
                    "detail": state.detail,
                    "costs": state.costs,
                    "hint": state.hint,
                }
                for state in states
            ]
        )
        return 1 if needed else 0
    rows = [[s.name, _word(s.present, s.required), s.feature.what, s.detail or "-"] for s in states]
    print_table(("FEATURE", "HERE", "WHAT", "DETAIL"), rows)
    if missing:
        click.echo("\nmissing:")
    for state in missing:
        click.echo(f"  {state.name} ({state.feature.option}): {state.costs}")
        click.echo(f"    next: {state.hint}")
    click.echo()
    if needed:
        click.echo(f"no cluster runs here: {', '.join(s.name for s in needed)} missing")
        return 1
    click.echo("clusters run here" + (f", without what the {len(missing)} missing features cost" if missing else ""))
    return 0


def _word(present: bool, required: bool) -> str:
    return "yes" if present else "NO, required" if required else "no"
