"""Every verb on every network of a folder: it ends well, or is refused for a reason that it says.

    python bench/real/every_verb.py FOLDER [--binary target/release/paredown] [--network NAME …] [--only VERB …]

A folder holds NAME/model.onnx and NAME/calib.npz. What is written is checked with onnx.checker and ONNX Runtime at three sizes
of every dynamic axis. Exit code 1: something broke.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from networks import Network, faults, networks, run

# Exit codes that are answers: done, and nothing can be removed or a budget is out of reach.
DONE, NOTHING = 0, 4


def verbs(network: Network, folder: Path) -> dict[str, list[str]]:
    """The command line of every verb; `verify` reads what the first one wrote."""
    model, data = str(network.model), ["--data", str(network.samples)]
    output = lambda name: ["-o", str(folder / f"{name}.onnx")]
    plan = str(folder / "plan.toml")
    return {
        "inspect": ["inspect", model],
        "prune": ["prune", model, *output("prune"), *data, "--macs", "50%", "--plan-out", plan],
        "verify": ["verify", model, str(folder / "prune.onnx"), "--plan", plan, *data],
        "plain": ["prune", model, *output("plain"), "--ratio", "0.3", "--criterion", "l2"],
        "factorize": ["factorize", model, *output("factorize"), *data, "--params", "60%"],
        "tune": ["tune", model, *output("tune"), *data, "--teacher", model, "--epochs", "1", "--batch", "8"],
        "max-drop": ["prune", model, *output("max-drop"), *data, "--max-drop", "2%"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--binary", default="target/release/paredown")
    parser.add_argument("--network", action="append", default=[])
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--timeout", type=float, default=1800)
    options = parser.parse_args()
    broken = 0
    for network in networks(options.folder, options.network):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for verb, arguments in verbs(network, folder).items():
                if options.only and verb not in options.only:
                    continue
                if verb == "verify" and not (folder / "prune.onnx").exists():
                    print(f"{network.name:14} {verb:10} left out: nothing was written", flush=True)
                    continue
                job = run(options.binary, arguments, options.timeout)
                written = folder / f"{verb}.onnx"
                found = faults(network, written) if job.code == DONE and written.exists() else []
                is_broken = job.code not in (DONE, NOTHING) or bool(found)
                broken += is_broken
                verdict = "broken" if is_broken else "done" if job.code == DONE else "refused"
                why = "; ".join(found) if found else "" if job.code == DONE else f"exit {job.code}: {job.reason}"
                print(
                    f"{network.name:14} {verb:10} {verdict:8} {job.seconds:7.1f} s {job.megabytes:7.0f} MB  {why}",
                    flush=True,
                )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
