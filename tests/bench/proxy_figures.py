"""From docs/figures/proxy.json to docs/figures/proxy.svg and the README's table: scripts/plot.

The JSON is what ``bench_proxy_modes --all-sizes --save`` wrote; nothing here is typed in by hand.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE, PLOT, README = ROOT / "docs/figures/proxy.json", ROOT / "docs/figures/proxy.svg", ROOT / "README.md"
PLACE = re.compile(r"(<!-- scripts/plot writes from here -->\n).*?(<!-- to here -->\n)", re.S)

# Mid-tones, which can be read on GitHub's white and on its dark background.
GREY = "#808890"
STYLES = {
    "nftables": ("netsim, nftables mode", "#2f81f7", "-", "o"),
    "kube-proxy's nftables by nft -f": ("kube-proxy's nftables rules, `nft -f`", "#a371f7", "--", "s"),
    "iptables": ("netsim, iptables mode (nft)", "#2da44e", "-", "o"),
    "iptables, legacy": ("netsim, iptables mode (legacy)", "#cf4f9c", "-", "o"),
    "iptables-nft-restore": ("kube-proxy's iptables rules, `iptables-nft-restore`", "#d9822b", "--", "s"),
    "iptables-legacy-restore": ("kube-proxy's iptables rules, `iptables-legacy-restore`", "#e5534b", "--", "^"),
    "ipvs": ("netsim, ipvs mode", "#b08800", "-", "o"),
}
PANELS = (  # key, title, factor
    ("first_ms", "first sync, seconds", 1e-3),
    ("change_ms", "one endpoint's change, milliseconds", 1.0),
    ("packet_us", "first packet, last service: microseconds", 1.0),
)

Row = dict[str, Any]


def draw(rows: list[Row]) -> None:
    import matplotlib as mpl  # type: ignore[import-not-found]  # in .plot only

    mpl.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "netsim", "font.family": "sans-serif", "font.size": 9})
    plt.rcParams.update({f"{what}.color": GREY for what in ("xtick", "ytick", "text")})
    plt.rcParams.update({"axes.labelcolor": GREY, "axes.edgecolor": GREY, "grid.color": GREY})
    figure, panels = plt.subplots(1, len(PANELS), figsize=(11, 4))
    for axes, (key, title, factor) in zip(panels, PANELS, strict=True):
        for way, (label, colour, dashes, marker) in STYLES.items():
            found = [(row["services"], row[key] * factor) for row in rows if row["way"] == way and key in row]
            if found:
                style = {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 4}
                axes.loglog(*zip(*found, strict=True), label=label.replace("`", ""), **style)
        axes.set_title(title, color=GREY, fontsize=9)
        axes.set_xlabel("services of two endpoints")
        axes.grid(visible=True, alpha=0.25)
        axes.set_xticks(sorted({row["services"] for row in rows}), minor=False)
        axes.minorticks_off()
        axes.tick_params(axis="x", labelrotation=30)
        axes.xaxis.set_major_formatter(lambda x, _at: f"{x:,.0f}")
        axes.yaxis.set_major_formatter(lambda y, _at: f"{y:,g}")
        low, high = axes.get_ylim()  # whole decades, so that noise does not look like a slope
        axes.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
        axes.patch.set_alpha(0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(PLOT, transparent=True, metadata={"Date": None})


def spell_time(value_ms: float) -> str:
    if value_ms >= 1000:
        return f"{value_ms / 1000:.2g} s" if value_ms < 10000 else f"{value_ms / 1000:.0f} s"
    return f"{value_ms:.0f} ms" if value_ms >= 10 else f"{value_ms:.1f} ms"


def _cell(row: Row | None, key: str) -> str:
    if row is None or "missing" in row:
        return "-"
    if key == "memory":
        if "process_mb" not in row:
            return "-"
        kernel = f"{max(0.0, row['kernel_mb']):.0f}" if "kernel_mb" in row else "?"
        return f"{kernel} + {max(0.0, row['process_mb']):.0f} MB"
    if key not in row:
        if key == "first_ms":
            return f"> {row['stopped_s']} s" if "stopped_s" in row else "failed"
        return "not measured"
    return f"{row[key]:.0f} µs" if key == "packet_us" else spell_time(row[key])


GROUPS = (
    ("first_ms", "first sync"),
    ("change_ms", "one endpoint's change"),
    ("packet_us", "first packet through the last service"),
    ("memory", "memory: kernel + process"),
)


def render_table(rows: list[Row]) -> str:
    sizes = sorted({row["services"] for row in rows})
    by_place = {(row["way"], row["services"]): row for row in rows}
    lines = ["| services | " + " | ".join(f"{size:,}" for size in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for key, title in GROUPS:
        lines.append(f"| **{title}** |" + " |" * len(sizes))
        for way, (label, *_style) in STYLES.items():
            found = [by_place.get((way, size)) for size in sizes]
            if any(row is not None and "missing" not in row for row in found):
                lines.append(f"| {label} | " + " | ".join(_cell(row, key) for row in found) + " |")
    return "\n".join(lines) + "\n"


def render_notes(machine: Row, rows: list[Row], note: str = "") -> str:
    """``note``: what there is to say of this one run, where somebody wrote it into the JSON."""
    absent = sorted({f"{row['way']} mode is not in it ({row['missing']})" for row in rows if "missing" in row})
    words = f"Linux {machine['kernel']}, {machine['cores']} cores, Python {machine['python']}, {machine['nft']}, "
    words += f"{machine['iptables']}; load average while it ran {machine['load'][0]} to {machine['load'][1]}"
    return "; ".join([words, *absent]) + "." + (f" {note}." if note else "") + "\n"


def main() -> None:
    saved = json.loads(SOURCE.read_text())
    rows = saved["rows"]
    draw(rows)
    plot = f"![time against number of services, for each way]({PLOT.relative_to(ROOT)})\n"
    written = "\n".join([plot, render_table(rows), render_notes(saved["machine"], rows, saved.get("note", ""))])
    before = README.read_text()
    if not PLACE.search(before):
        raise SystemExit("README.md has lost the place for the table")
    README.write_text(PLACE.sub(lambda match: f"{match[1]}\n{written}\n{match[2]}", before))


if __name__ == "__main__":
    main()
