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

    features = read_features()
    missing = [feature for feature in features if not feature.present]
    needed = [feature for feature in missing if feature.required]
    if output == "json":
        print_json(
            [
                {
                    "name": feature.name,
                    "present": feature.present,
                    "required": feature.required,
                    "detail": feature.detail,
                    "costs": feature.costs,
                    "hint": feature.hint,
                }
                for feature in features
            ]
        )
        return 1 if needed else 0
    rows = [[f.name, "yes" if f.present else "NO" if f.required else "no", f.detail or "-"] for f in features]
    print_table(("FEATURE", "HERE", "DETAIL"), rows)
    for feature in missing:
        click.echo(f"\n{feature.name}: {'required: ' if feature.required else 'without it: '}{feature.costs}")
        if feature.hint:
            click.echo(f"  next: {feature.hint}")
    click.echo()
    if needed:
        click.echo(f"no cluster runs here: {', '.join(f.name for f in needed)} missing")
        return 1
    click.echo("clusters run here" + (f"; {len(missing)} features are missing" if missing else ""))
    return 0
