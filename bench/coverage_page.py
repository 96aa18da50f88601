"""bench/COVERAGE.md from the results of coverage.py."""

from collections.abc import Iterator
from pathlib import Path

from coverage_models import ANCHORS, EXCEPTIONS, LAYERS, LEAST_REMOVED, SHIFTS, SLACK, WITHOUT_STATISTICS

import onnx

EXACT = 1e-4
VARIANTS = ("static", "dynamic", "dynamo")
HEADER = """# Coverage: half of every group removed

`bench/coverage.py` writes this page. All networks have random weights and are pruned with `--ratio 0.5` and the
criterion `l2`. Unless its row says otherwise, every result passed the full check of `onnx.checker` and ran in ONNX
Runtime on the same inputs as its original, with the same output shapes. Parameters are the float values in the file, in
millions, counted by `bench/check.py` for every tool. *Exact* is max|Δ| between the pruned network and the masked
original, divided by the spread of the output (limit 1e-4). It is measured in tract, or in ONNX Runtime if marked with *;
– means not measured.
"""


def states(path: Path) -> list[str]:
    """Recurrent states among the graph's inputs and outputs: h0, c0, hn, cn."""
    graph = onnx.load(path).graph
    return [v.name for v in [*graph.input, *graph.output] if v.name in {"h0", "c0", "hn", "cn"}]


def millions(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:.2f}"


def exactness(row: dict) -> str:
    if row.get("exact") is None:
        return "–"
    return f"{row['exact']:.0e}" + ("*" if row.get("exact_in") == "ONNX Runtime" else "")


def removed(row: dict) -> float:
    return 1 - row["after"] / row["before"] if row.get("before") else 0.0


def percent(row: dict | None) -> str:
    if row is None:
        return "–"
    if row.get("unexported"):
        return "no export"
    return f"{100 * removed(row):.1f}" if row.get("before") else "fails"


def peer_cell(peer: dict | None) -> str:
    if not peer:
        return "–"
    if peer["parameters"] is None:
        return "no end in 200 s" if "no end" in peer["error"] else "crash"
    return millions(peer["parameters"])


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def anchor_problem(name: str, row: dict) -> str | None:
    if row.get("error"):
        return row["error"]
    mark = ANCHORS.get(name) or SHIFTS[name]
    counted = row["after"] - (row.get("statistics", 0) if name in WITHOUT_STATISTICS else 0)
    if counted > mark * 1e6 * SLACK:
        return f"{counted / 1e6:.3f} M left, {mark} M allowed"
    if name in SHIFTS:
        return None
    if row["exact"] is None:
        return "exactness not measured"
    return None if row["exact"] <= EXACT else f"exactness {row['exact']:.1e}"


def anchors(results: dict) -> tuple[str, list[str]]:
    rows, misses = [], []
    for name, row in results.get("anchors", {}).items():
        peers = results["peers"].get(name, {})
        problem = anchor_problem(name, row)
        if problem:
            misses.append(f"anchors {name}: {problem}")
        mark = ANCHORS.get(name) or SHIFTS.get(name)
        status = problem or "reached"
        if problem is None and name in WITHOUT_STATISTICS:
            trained = (row["after"] - row["statistics"]) / 1e6
            status = f"reached: {trained:.3f} without running statistics, which the mark does not count"
        if name in SHIFTS and problem is None:
            status = "reached; valid and faithful only, statistics shift"
        rows.append([
            name, millions(row.get("before")), peer_cell(peers.get("onnxsim")), peer_cell(peers.get("torch-pruning")),
            f"**{millions(row.get('after'))}**", f"≤ {mark}", exactness(row) if name not in SHIFTS else "–", status,
        ])  # fmt: skip
    columns = ["model", "dense", "onnxsim 0.8.1", "Torch-Pruning 1.6.1", "paredown", "mark", "exact", "status"]
    note = (
        "The marks allow 1 % for rounding. Torch-Pruning prunes the PyTorch network, which is exported afterwards. It and "
        "onnxsim are limited to 200 s of processor time. onnxsim removes attention heads, then channels, with the better of "
        "its two implementations.\n"
    )
    return f"## Comparison with other tools\n\n{note}\n{table(columns, rows)}", misses


def wide_problem(row: dict | None) -> str | None:
    if row is None or row.get("unexported"):
        return None
    if row.get("error"):
        return row["error"]
    if removed(row) < LEAST_REMOVED:
        return f"only {100 * removed(row):.1f} % removed"
    return f"exactness {row['exact']:.1e}" if row.get("exact") is not None and row["exact"] > EXACT else None


def wide(results: dict) -> tuple[str, list[str]]:
    section = results.get("wide", {})
    names = sorted({name.removesuffix("_dynamo") for name in section})
    rows, misses, exceptions = [], [], []
    for name in names:
        script, dynamo = section.get(name), section.get(f"{name}_dynamo")
        problems = []
        for label, row in (("TorchScript", script), ("dynamo", dynamo)):
            problem = wide_problem(row)
            if problem:
                problems.append(f"{label}: {problem}")
                exceptions.append((name, label, row, problem))
            if row and row.get("unexported"):
                exceptions.append((name, label, row, row["error"]))
        measured = [exactness(row) if row else "–" for row in (script, dynamo)]
        status = "; ".join(problems) or "ok"
        if problems and name not in EXCEPTIONS:
            misses.append(f"wide {name}: {status}")
        any_row = next((row for row in (script, dynamo) if row and row.get("before")), {})
        rows.append(
            [name, millions(any_row.get("before")), percent(script), percent(dynamo), " / ".join(measured), status]
        )
    columns = ["model", "dense", "% removed, TorchScript", "% removed, dynamo", "exact", "status"]
    good = sum(row[-1] == "ok" for row in rows)
    text = (
        f"## torchvision\n\n{len(rows)} architectures, {good} of them with at least 40 % of their parameters removed, valid, "
        "in each exporter that exports them. Large files run in ONNX Runtime only.\n\n"
        + table(columns, rows)
    )
    return text + exception_section(exceptions), misses


def exception_section(exceptions: list[tuple[str, str, dict, str]]) -> str:
    lines = ["\n### Exceptions\n"]
    for name, label, row, problem in exceptions:
        why = f" {EXCEPTIONS[name]}" if name in EXCEPTIONS else ""
        lines.append(f"* **{name}** ({label}): {problem}.{why}")
        lines += [f"  * held by {holder}" for holder in row.get("holders", []) if not row.get("unexported")]
    return "\n".join(lines if exceptions else [*lines, "None."]) + "\n"


def detectors(results: dict) -> tuple[str, list[str]]:
    rows, misses = [], []
    for name, row in results.get("detectors", {}).items():
        problem = row.get("error")
        if problem:
            misses.append(f"detectors {name}: {problem}")
        held = "; ".join(row.get("holders", [])[:2])
        rows.append([name, millions(row.get("before")), percent(row), problem or "valid", held])
    columns = ["model", "dense", "% removed", "status", "largest frozen groups"]
    return f"## Detectors\n\nOne image of fixed size, in ONNX Runtime only.\n\n{table(columns, rows)}", misses


def architecture(name: str) -> tuple[str, str]:
    """`bert_sdpa_dynamic` → (`bert_sdpa`, `dynamic`); MiniLM's exports are named otherwise."""
    for variant in VARIANTS:
        if name.endswith("_" + variant):
            return name.removesuffix("_" + variant), variant
    return name, "dynamic"


def transformer_problems(name: str, row: dict) -> list[str]:
    if row.get("error"):
        return [row["error"]]
    base = architecture(name)[0]
    layers = next((count for key, count in LAYERS.items() if base.split("_")[0] == key), 2)
    total, gone = row["widths"]["heads"]
    problems = [] if gone == total and total else [f"heads {gone}/{total}"]
    feed_forward = min(row["widths"]["feed_forward"][1], layers)
    if feed_forward < layers:
        problems.append(f"feed-forward {feed_forward}/{layers}")
    if row["exact"] is not None and row["exact"] > EXACT:
        problems.append(f"exactness {row['exact']:.1e}")
    if row["exact"] is None:
        problems.append("exactness not measured")
    return problems


def transformers(results: dict) -> tuple[str, list[str]]:
    cells: dict[str, dict[str, str]] = {}
    misses = []
    for name, row in results.get("transformers", {}).items():
        problems = transformer_problems(name, row)
        base, variant = architecture(name)
        if problems:
            misses.append(f"transformers {name}: {'; '.join(problems)}")
        good = f"halved, {100 * removed(row):.0f} % removed, exact {exactness(row)}" if row.get("before") else ""
        cells.setdefault(base, {})[variant] = "; ".join(problems) or good
    rows = [[base, *(variants.get(variant, "–") for variant in VARIANTS)] for base, variants in cells.items()]
    text = (
        "## Hugging Face architectures\n\nSmall random configurations (and MiniLM's weights). *Halved*: every attention block "
        "has half of its heads and every feed-forward layer half of its neurons, read off the shapes of Softmax and activation "
        "results in ONNX Runtime; files with dynamic axes ran at three batch and sequence sizes.\n\n"
    )
    return text + table(["architecture", *VARIANTS], rows), misses


def plain_rows(section: dict) -> Iterator[tuple[str, dict, str | None]]:
    for name, row in section.items():
        problem = row.get("error")
        if not problem and row.get("exact") is None:
            problem = None if row.get("note") else "exactness not measured"
        elif not problem and row["exact"] > EXACT:
            problem = f"exactness {row['exact']:.1e}"
        yield name, row, problem


def recurrent(results: dict) -> tuple[str, list[str]]:
    rows, misses = [], []
    for name, row, found in plain_rows(results.get("recurrent", {})):
        problem = found
        total, gone = row.get("widths", {}).get("hidden", (0, 0))
        if not problem and total and gone < total:
            problem = f"hidden width halved in {gone} of {total}"
        if not problem and removed(row) < 0.5:
            problem = f"only {100 * removed(row):.0f} % removed"
        if problem:
            misses.append(f"recurrent {name}: {problem}")
        rows.append([name, percent(row), exactness(row), problem or "halved"])
    text = "## Recurrent\n\n`_initial`: states are inputs and outputs of the graph, thawed with `--thaw`.\n\n"
    return text + table(["model", "% removed", "exact", "hidden width"], rows), misses


INTEGER = ("_integer", "_nbits", "_qoperator")


def quantized(results: dict) -> tuple[str, list[str]]:
    rows, misses = [], []
    for name, row, found in plain_rows(results.get("quantized", {})):
        problem = found
        if problem and name.endswith(INTEGER) and problem.startswith("exit 4"):
            rows.append([name, "0.0", "–", "–", "frozen and named: " + problem])
            continue
        if problem:
            misses.append(f"quantized {name}: {problem}")
        gone = f"{100 * (1 - row['bytes_after'] / row['bytes_before']):.1f}" if row.get("bytes_before") else "–"
        steps = "–" if row.get("steps") is None else str(row["steps"])
        rows.append([name, gone, exactness(row), steps, problem or row.get("note") or "valid"])
    text = (
        "## Quantized and narrower types\n\n*Exact* is measured without the activation quantizers; *steps* is "
        "the largest difference at any quantizer, in quantization "
        "steps, measured in tract with the quantizers in place.\n\n"
    )
    return text + table(["model", "% of bytes removed", "exact", "steps", "status"], rows), misses


def fused(results: dict) -> tuple[str, list[str]]:
    rows, misses = [], []
    for name, row, problem in plain_rows(results.get("fused", {})):
        if problem:
            misses.append(f"fused {name}: {problem}")
        rows.append([name, percent(row), exactness(row), problem or row.get("note") or "valid"])
    text = (
        "## Fused operators\n\nFiles of `export_attention.py` and of ONNX Runtime's transformer optimizer (`_ort`).\n\n"
    )
    return text + table(["model", "% removed", "exact", "status"], rows), misses


def render(results: dict) -> tuple[str, list[str]]:
    """The page, and one line for each mark that is missed."""
    texts, misses = [HEADER], []
    for section in (anchors, wide, detectors, transformers, recurrent, quantized, fused):
        if results.get(section.__name__):
            text, missed = section(results)
            texts.append(text)
            misses += missed
    return "\n".join(texts), misses


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")] if line.startswith("| ") else []


def table_rows(page: str) -> Iterator[tuple[str, list[str], str]]:
    """Every line with the heading that it is below and, in a table, its cells."""
    heading = ""
    for line in page.split("\n"):
        heading = line if line.startswith("## ") else heading
        yield heading, cells(line), line


def both(old: str, new: str) -> str:
    """The newer of two cells; a part of it that was not measured (–) is the older one's."""
    olds, news = old.split(" / "), new.split(" / ")
    if len(olds) != len(news):
        return new
    return " / ".join(before if after == "–" else after for before, after in zip(olds, news))


def updated(old: str, new: str) -> str:
    """The page `old` with what `new` has measured; rows and text that only `old` has stay."""
    rows = {(heading, row[0]): row for heading, row, _ in table_rows(new) if row}
    lines, last = [], {}
    for heading, row, line in table_rows(old):
        found = rows.pop((heading, row[0]), None) if row else None
        if found and len(found) == len(row):
            merged = [both(before, after) for before, after in zip(row, found)]
            line = "| " + " | ".join(merged) + " |"
        lines.append(line)
        if line.startswith("|"):
            last[heading] = len(lines)
    # From the last table to the first, so that positions stay right.
    for (heading, _), row in sorted(rows.items(), key=lambda item: last.get(item[0][0], 0), reverse=True):
        if heading in last:
            lines.insert(last[heading], "| " + " | ".join(row) + " |")
    return "\n".join(lines)
