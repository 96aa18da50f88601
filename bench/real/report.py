"""The page bench/REAL.md, from what was measured."""

import re
from typing import Any

from catalogue import CATALOGUE, VERBS

# Hardware whose block sizes the results have, so that the page does not depend on the processor it was made on.
TARGET = "avx2"
# A loss of the metric, in points, and a latency as a share of the original's, that the page calls short of the aim.
LOSS, SLOW = 2.0, 0.9
# The exit code of a budget that cannot be met.
OUT_OF_REACH = 4

HEAD = """# Real networks

Trained networks as packages of PyPI ship them, before and after paredown takes half of their multiply–accumulates
(MACs). Nothing is trained: each job sees at most a few hundred unlabelled samples. No job sees the judged samples. All
options are the defaults. `PAREDOWN_TARGET={target}` makes the sizes independent of the processor.

    pip install -r bench/requirements.txt
    python bench/real/make.py real
    python bench/real/page.py real --binary target/release/paredown -o bench/REAL.md

The first script downloads the packages, exports the networks, and makes the samples. The second one runs all jobs. It
checks each file with onnx.checker and with ONNX Runtime at three sizes of each dynamic axis, and writes this page. It
keeps one JSON file for each network: `--network NAME` measures one again, and `--render` measures nothing.

"""

TABLE = """| network | job | metric, % | before | after | MACs | parameters | file | latency, ms | as fast |
|---|---|---|---|---|---|---|---|---|---|
"""

LEGEND = """
MACs, parameters and file are what remains of the original's. The latency is that of one sample in ONNX Runtime
{runtime} on one thread of {processor}: before → after, medians of runs that take turns, with all models of a network
alive. "As fast" is the ratio of the two. The jobs ran on two cores beside other work: their seconds are an upper
limit.

"""


def points(value: float) -> str:
    return f"{100 * value:.2f}"


def share(found: dict[str, Any], key: str, before: dict[str, Any]) -> str:
    """What remains, beside the original's number."""
    return f"{100 * found['model'][key] / before[key]:.1f} %"


def times(original: dict[str, Any], found: dict[str, Any]) -> str:
    """Milliseconds before and after, to three digits."""
    return " → ".join(f"{milliseconds:#.3g}".rstrip(".") for milliseconds in (original["ms"], found["ms"]))


def row(name: str, verb: str, result: dict[str, Any]) -> str:
    original, found = result["original"], result[verb]
    entry = CATALOGUE[name]
    start = f"| `{name}` | {verb} {found['budget']} | {entry.metric} | {points(original['metric'])} "
    if found["code"] != 0:
        return f"{start}| nothing written | | | | | |\n"
    before = original["model"]
    return (
        f"{start}| {points(found['metric'])} | {share(found, 'macs', before)} | {share(found, 'params', before)} "
        f"| {share(found, 'bytes', before)} | {times(original, found)} | {original['ms'] / found['ms']:.2f}× |\n"
    )


def amount(value: float) -> str:
    """A count with a prefix: 4.82 M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.0f}"


def refusal(said: str) -> str:
    """Why paredown wrote nothing, in its own words, without the path of the file."""
    line = next((line for line in said.splitlines() if "error" in line), said.strip().split("\n")[0])
    return re.sub(r"^\S+\.onnx: ", "", line.removeprefix("paredown: error: "))


def fault(found: dict[str, Any]) -> str:
    """Whether a refusal is an answer or a defect: the originals run, so that no other exit code is right."""
    kind = "The budget cannot be met" if found["code"] == OUT_OF_REACH else "This is a defect of paredown"
    return f"{kind} (exit code {found['code']}: {refusal(found['said'])})."


def wrapped(text: str, width: int = 120) -> str:
    """A paragraph, broken into lines of limited length."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line]) + "\n"


def section(name: str, result: dict[str, Any]) -> str:
    """What a network is, how it is judged, and what the jobs took."""
    entry, model = CATALOGUE[name], result["original"]["model"]
    text = f"## `{name}`\n\n"
    size = ""
    if model:
        size = f" {amount(model['params'])} parameters, {amount(model['macs'])} MACs, {model['bytes'] / 1e6:.3g} MB."
    text += wrapped(
        f"{entry.what[0].upper()}{entry.what[1:]}.{size} Package `{entry.package}`, licence {entry.licence}, exporter "
        f"{entry.exporter}."
    )
    text += "\n" + wrapped(entry.judged) + "\n"
    text += f"    python bench/real/make.py real {name}\n"
    for verb in VERBS:
        budget = result[verb]["budget"]
        text += f"    PAREDOWN_TARGET={TARGET} paredown {verb} real/{name}/model.onnx -o {name}.{verb}.onnx \\\n"
        text += f"        --macs {budget} --data real/{name}/calib.npz\n"
        if result[verb]["code"] == 0:
            text += f"    python bench/real/metrics.py real {name} {name}.{verb}.onnx\n"
    text += "\n"
    for verb in VERBS:
        found = result[verb]
        took = f"{found['seconds']:.0f} s and {found['megabytes'] / 1000:.2f} GB"
        if found["code"] == 0:
            checked = "The file passes all checks." if not found["faults"] else "; ".join(found["faults"])
            text += wrapped(f"`{verb}` took {took}. {checked}")
        else:
            text += wrapped(f"`{verb}` wrote nothing, after {took}. {fault(found)}")
        text += "\n"
    return text


def shortfalls(results: dict[str, Any]) -> str:
    """Everything in the table that is not what a user hopes for."""
    text = ""
    for name, result in results.items():
        for verb in VERBS:
            found, original = result[verb], result["original"]
            if found["code"] != 0:
                text += f"* `{name}`, {verb}: nothing is written. {fault(found)}\n"
                continue
            lost = 100 * (original["metric"] - found["metric"])
            macs = found["model"]["macs"] / original["model"]["macs"]
            what = [f"loses {lost:.1f} points"] if lost > LOSS else []
            if found["ms"] > SLOW * original["ms"]:
                what.append(f"has {100 * macs:.0f} % of the MACs and is {original['ms'] / found['ms']:.2f}× as fast")
            if found["budget"] != "50%":
                what.append(f"cannot reach 50 % of the MACs, and was run with {found['budget']}")
            if what:
                text += f"* `{name}`, {verb}: {'; '.join(what)}.\n"
    return f"## Where it falls short\n\n{text}\n" if text else ""


def summary(results: dict[str, Any]) -> str:
    """The table of README.md: what `prune` does to each network, and what `factorize` does instead."""
    text = "| network | metric, % | before | pruned | MACs | parameters | latency, ms | factorized | latency, ms |\n"
    text += "|---|---|---|---|---|---|---|---|---|\n"
    for name, result in results.items():
        original, entry = result["original"], CATALOGUE[name]
        cells = [f"{entry.what} (`{entry.package.split('==')[0]}`)", entry.metric, points(original["metric"])]
        for verb in VERBS:
            found = result[verb]
            if found["code"] != 0:
                cells += ["–"] * (4 if verb == "prune" else 2)
                continue
            cells.append(points(found["metric"]))
            if verb == "prune":
                cells += [share(found, key, original["model"]) for key in ("macs", "params")]
            cells.append(times(original, found))
        text += f"| {' | '.join(cells)} |\n"
    return text


def page(results: dict[str, Any]) -> str:
    """The whole page, as Markdown."""
    text = HEAD.format(target=TARGET) + TABLE
    text += "".join(row(name, verb, result) for name, result in results.items() for verb in VERBS)
    machines = {(result["machine"]["onnxruntime"], result["machine"]["processor"]) for result in results.values()}
    for runtime, processor in sorted(machines):
        text += "\n" + wrapped(LEGEND.format(runtime=runtime, processor=processor)) + "\n"
    text += shortfalls(results)
    text += "".join(section(name, result) for name, result in results.items())
    missing = [name for name in CATALOGUE if name not in results]
    if missing:
        text += "## Left out\n\n" + "".join(f"* `{name}`: not measured yet.\n" for name in missing)
    return text.rstrip() + "\n"
