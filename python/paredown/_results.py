"""What jobs return."""

from __future__ import annotations

import html
import json
import os
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union

from . import _paredown
from ._progress import Listener, listening
from ._samples import Samples
from .errors import UsageError

if TYPE_CHECKING:
    import pandas


#: What the extension module returns.
Source = TypeVar("Source", bound=Union[_paredown.Report, _paredown.Sweep])


class Document(dict[str, Any], Generic[Source]):
    """A report as nested dictionaries, as a page and as text."""

    def __init__(self, report: Source) -> None:
        super().__init__(json.loads(report.to_json()))
        self._report: Source = report

    def to_html(self) -> str:
        """The report as one self-contained page."""
        return self._report.to_html()

    def _repr_html_(self) -> str:
        """The page, as notebooks show it."""
        page = html.escape(self.to_html(), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'

    def __str__(self) -> str:
        return self._report.text()


class Report(Document[_paredown.Report]):
    """The report of a job, as nested dictionaries: the same as ``--report`` writes.

    Printing it shows the text that the command line prints.
    """

    def to_json(self) -> str:
        """The report as JSON text."""
        return self._report.to_json()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report: a page if the name ends in ``.html``, JSON otherwise."""
        self._report.save(os.fspath(path))

    def to_dataframe(self, table: str | None = None) -> pandas.DataFrame:
        """One table of the report as a ``pandas.DataFrame``.

        ``table`` is a list in the report, such as ``"groups"``, ``"layers"`` or ``"frozen"``. The default is the layers if
        some were considered, and the coupled groups otherwise.

        >>> import paredown as pd
        >>> report = pd.inspect("fixtures/digits_mlp.onnx")
        >>> report.to_dataframe()[["axis", "size", "role"]].head(2)
              axis  size    role
        0  neurons   256    free
        1  indices     8  frozen
        """
        import pandas

        name = table or ("layers" if self["layers"] else "groups")
        rows = self.get(name)
        if not isinstance(rows, list):
            lists = ", ".join(key for key, value in self.items() if isinstance(value, list))
            raise UsageError(f"the report has no table '{name}': choose one of {lists}")
        return pandas.DataFrame(rows)


class Result:
    """A rewritten model, with the plan that was carried out and the report.

    >>> import paredown as pd
    >>> result = pd.prune("fixtures/digits_mlp.onnx", ratio=0.5)
    >>> result.report["verify"]["valid"]
    True
    """

    def __init__(self, outcome: _paredown.Outcome, samples: list[Samples]) -> None:
        self._outcome = outcome
        # Their temporary files are read again by the proof.
        self._samples = samples

    @property
    def report(self) -> Report:
        """What was found, changed and proved."""
        return Report(self._outcome.report())

    @property
    def plan(self) -> dict[str, Any]:
        """What was removed or split; the option ``plan`` of a job carries it out again."""
        plan: dict[str, Any] = json.loads(self._outcome.plan())
        return plan

    def prove(self, *, progress: bool | Listener = False) -> Result:
        """Proves the rewrite in tract, if the job was given ``no_verify=True``, and returns the result itself."""
        with listening(progress) as listener:
            self._outcome.prove(listener)
        return self

    def save(self, path: str | os.PathLike[str], *, force: bool = False, external_data: bool = False) -> Result:
        """Writes the model, completely or not at all, and returns the result itself.

        An existing file is overwritten only with ``force``. ``external_data`` stores the weights in a file of their own.
        """
        self._outcome.save(os.fspath(path), external_data, force)
        return self

    def save_plan(self, path: str | os.PathLike[str]) -> Result:
        """Writes the plan, and returns the result itself."""
        self._outcome.save_plan(os.fspath(path))
        return self

    def save_report(self, path: str | os.PathLike[str]) -> Result:
        """Writes the report, a page if the name ends in ``.html``, and returns the result itself."""
        self.report.save(path)
        return self

    def model_bytes(self) -> bytes:
        """The content of the ONNX file, for ``onnx.load_from_string`` or ``onnxruntime.InferenceSession``."""
        return self._outcome.model_bytes()

    def __repr__(self) -> str:
        figures = self.report["model"]
        before, after = figures["before"], figures["after"]
        return f"<paredown.Result: {after['params']} of {before['params']} parameters, {after['macs']} of {before['macs']} MACs>"
